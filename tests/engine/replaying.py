"""Runs of random regimes in folders, for the tests of forks and replays."""

import random
import warnings

import regimes as rg
from regimes.core.errors import DeclarationError, RunFailed, UserCodeError
from regimes.testing.conformance import tiny
from regimes.testing.random_regimes import draw

#: Records after which a run is left as a kill would leave it; most end before.
LONGEST = 70


def made(number, folder):
    """Train the `number`-th random regime in a folder; (workload, drawn), or None where it is refused."""
    rng = random.Random(number)
    try:
        drawn = draw(rng)
    except DeclarationError:
        return None
    names = ("a", "b") if any(phase.mixture is not None for phase in drawn.regime.phases) else ()
    work = tiny.workload(drawn.task, names)
    options = {"probes": drawn.probes, "checkpoint": rng.choice(("10%", "35%", "100%")), "validate": "30%"}
    try:
        stream = rg.stream(work, drawn.regime, drawn.seed, out=folder, **options)
        for count, _ in enumerate(stream, start=1):
            if count == LONGEST:
                stream.close()
                break
    except (DeclarationError, UserCodeError):
        return None  # the parts do not go together
    except RunFailed:
        pass  # it gave up: what there is can be made again, too
    return work, drawn


def several(count, folder, first=0):
    """Yield (number, folder, workload, drawn) of `count` random regimes that train."""
    found, number = 0, first
    while found < count:
        place = folder / str(number)
        with tiny.one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = made(number, place)
            if run is not None and (place / "records.jsonl").is_file() and steps(place):
                found += 1
                yield number, place, *run
        number += 1


def steps(folder):
    """Lines of the steps of a run, those of trials with the step that they come before."""
    groups, waiting = [], []
    for line in (folder / "records.jsonl").read_bytes().splitlines(keepends=True):
        waiting.append(line)
        if b'"trial": ' not in line:
            groups.append(b"".join(waiting))
            waiting = []
    return groups
