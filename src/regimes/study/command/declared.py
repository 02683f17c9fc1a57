"""Whether a command can be compared: its line, where its metric is, the values of its arms, what of them is tuned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from regimes.core.component import round_half_up
from regimes.core.duration import seconds
from regimes.core.errors import DeclarationError, nearest, show
from regimes.study.command.line import Line
from regimes.study.command.measured import Measured
from regimes.study.command.values import Scalar, Values, text_of
from regimes.study.design import check_better, is_number
from regimes.study.ranges import Range

#: What every run is given.
GIVEN = ("seed", "out")


def faults(command: Any, metric: Any, curve: Any, timeout: Any, resumes: Any) -> Iterator[DeclarationError]:
    """Yield everything that is wrong with a command itself; the parameters are those of `regimes.Command`."""
    for key, text in (("command", command), ("metric", metric)):
        if not isinstance(text, str) or not text.strip():
            yield DeclarationError(f"got {show(text)}; allowed: a line of text", key)
    fields = Line(command).fields if isinstance(command, str) and command.strip() else None
    if fields is not None and "seed" not in fields:
        yield DeclarationError(
            "has no {seed}, so all seeds would be one run; write for example --seed {seed}", "command"
        )
    for key, place in (("metric", metric), ("curve", curve)):
        try:
            told = Measured.parse(place, key).file if isinstance(place, str) and place.strip() else None
        except DeclarationError as why:
            yield why
            continue
        if told and fields is not None and "out" not in fields and told not in ("{out}/stdout.txt", "{out}/stderr.txt"):
            yield DeclarationError(
                f"has no {{out}}, where the {key} is to be written; or read it from {{out}}/stdout.txt", "command"
            )
    try:
        seconds(timeout)
    except DeclarationError as why:
        yield why.within("timeout")
    if not isinstance(resumes, bool):
        yield DeclarationError(f"got {show(resumes)}; allowed: true or false", "resumes")


def misfits(line: Line, arms: Mapping[str, Values], ranges: Mapping[str, Range]) -> Iterator[DeclarationError]:
    """Yield everything in which arms and tuned ranges are not those of the line."""
    wanted = [name for name in line.fields if name not in GIVEN]
    for arm, values in arms.items():
        missing = [name for name in wanted if name not in values.given]
        for name in missing:
            yield DeclarationError(f"gives no '{name}', which the command names", f"arms.{arm}")
        for name in values.given:
            if name not in wanted:
                hint = "every run has its own" if name in GIVEN else nearest(name, wanted)
                yield DeclarationError(f"is no name in the command; {hint}", f"arms.{arm}.{name}")
        if not missing:
            try:
                line.filled(texts(values, 0, "out"))
            except DeclarationError as why:
                yield why.within(f"arms.{arm}")
    for name, range_ in ranges.items():
        for arm, values in arms.items():
            told = _untunable(name, range_, values)
            if told is not None:
                yield DeclarationError(f"in arm '{arm}': {told}", f"tune.{name}")


def texts(values: Values, seed: Any, out: Any) -> dict[str, str]:
    """What stands in a line for each name."""
    return {name: text_of(value) for name, value in values.given.items()} | {"seed": str(seed), "out": str(out)}


def tuned(own: Scalar, range_: Range, share: float) -> float:
    """Return a tuned value: a whole number (written without a point) stays whole, rounded half up as knobs are."""
    value = range_.apply(float(own), share)
    return round_half_up(value) if isinstance(own, int) else value


def _untunable(name: str, range_: Range, values: Values) -> str | None:
    own = values.given.get(name)
    if own is None:
        return nearest(name, values.given)
    if not is_number(own):
        return f"holds {show(own)} and no number"
    ends = [tuned(own, range_, share) for share in (0.0, 1.0)]
    if isinstance(own, int) and (ends[0] < 1 or ends[0] == ends[1]):
        low, high = (range_.apply(float(own), share) for share in (0.0, 1.0))
        return (
            f"holds {own}, a whole number, which stays whole, but its range goes from {low:g} to {high:g}; write "
            f"{float(own)} for a number that need not be whole"
        )
    return None


def problems(
    spec: Mapping[str, Any], arms: Mapping[str, Any], ranges: Mapping[str, Range], asked: Any
) -> Iterator[DeclarationError]:
    """Yield everything that is wrong with a file of a command.

    Parameters
    ----------
    spec : mapping
        What stands under ``workload:``.
    arms, ranges : mapping
        Those that could be read.
    asked : mapping or anything else that stands under ``compare:``
    """
    told = [why.within("workload") for why in (*unknown(spec), *faults_of(spec))]
    yield from told
    if isinstance(spec["command"], str):
        yield from misfits(Line(spec["command"]), arms, ranges)
    if isinstance(asked, Mapping) and not any(why.key == "workload.metric" for why in told):
        own = Measured.parse(spec["metric"], "metric").name
        if asked.get("metric") not in (None, own):
            yield DeclarationError(
                f"there is no metric '{asked['metric']}'; the command's is '{own}'", "compare.metric"
            )
        try:
            check_better(own, asked.get("better"))
        except DeclarationError as why:
            yield why.within("compare")


def faults_of(spec: Mapping[str, Any]) -> Iterator[DeclarationError]:
    """Yield the faults of a command that is given by its keys."""
    if "metric" not in spec:
        yield DeclarationError("needs a value, such as '{out}/metrics.json:val_loss'", "metric")
    given = {"metric": "{out}/stdout.txt:/()/", "curve": None, "timeout": None, "resumes": False} | dict(spec)
    yield from faults(*(given[name] for name in ("command", "metric", "curve", "timeout", "resumes")))


def unknown(spec: Mapping[str, Any]) -> Iterator[DeclarationError]:
    """Yield the keys that a command has not."""
    from dataclasses import fields

    from regimes.study.command.workload import Command

    known = [field.name for field in fields(Command)]
    for key in spec:
        if key not in known:
            yield DeclarationError(f"is no key of a command; {nearest(str(key), known)}", str(key))
