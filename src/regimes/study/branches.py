"""Fork, extend and replay: what follows from a run that can be made again to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.core.files import read_json
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.engine import api, distributed
from regimes.engine import fork as forks
from regimes.engine.result import RunResult
from regimes.engine.stored import Stored
from regimes.engine.workload import Workload
from regimes.study.longer import extra_of, longer
from regimes.study.stored import opened, threads_of

Edits = Mapping[str, Any]


class Branch(NamedTuple):
    """A child run whose folder is made: what it goes on with, and what changes.

    Parameters
    ----------
    stored : Stored
        The parent.
    regime : Regime
    folder : Path
    changes : dict
        ``edits``, ``knobs`` (at the step of the fork), ``horizon``, ``carried``, ``reset``, ``dropped``,
        ``trained_again``.
    seed : int
    """

    stored: Stored
    regime: Regime
    folder: Path
    changes: dict[str, Any]
    seed: int

    def train(self, max_time: str | float | None = None, progress: bool | None = None) -> RunResult:
        """Train the child, or go on with it; finished, it is not trained again."""
        stored, options = self.stored, dict(self.stored.options)
        options["probes"] = stored.probes
        with threads_of(stored):
            return api.run(
                stored.workload, self.regime, self.seed, out=self.folder, max_time=max_time, progress=progress,
                workload_spec=stored.declared["workload_spec"], **options,
            )  # fmt: skip


def branch_at(stored: Stored, at: int, regime: Regime, out: str | Path | None, seed: int | None = None) -> Branch:
    """Make the folder of a child run; see `fork`."""
    seed = stored.seed if seed is None else seed
    named = f"fork{at}-{regime.hash[:6]}" + (f"-seed{seed}" if seed != stored.seed else "")
    folder = Path(out) if out is not None else beside(stored.path, named)
    world = distributed.join()
    if world.first:
        with threads_of(stored):
            forks.fork(stored, at, regime, folder, stored.declared["workload_spec"], seed)
    world.wait()  # of several processes one makes it, and all train it
    return Branch(stored, regime, folder, read_json(folder / "run.json")["lineage"]["changes"], seed)


def beside(path: Path, name: str) -> Path:
    """Return the place of a folder that belongs to a run's, beside it."""
    path = path.absolute() if path.name in ("", "..") else path
    return path.with_name(f"{path.name}-{name}")


def step_of(key: str, value: Any) -> int:
    """Read the number of a step.

    Raises
    ------
    DeclarationError
        For what is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DeclarationError(f"got {show(value)}; allowed: a step, an integer from 0 on", key)
    return value


def fork(
    run: str | Path | RunResult,
    at: int,
    edits: Edits | None = None,
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    workload: Workload | None = None,
    max_time: str | float | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Train a child of a run: its state after `at` steps, and edits from there on.

    What is declared as before goes on to the bit; with no edits the child is its parent's continuation. A component
    that is declared otherwise goes on with its state where that fits its new form, as over a seam that carries it,
    else it begins anew. Where the parent has no checkpoint of that step, it is trained again from the nearest earlier
    one, each record held against the stored one. The parent's folder is only read.

    Parameters
    ----------
    run : path or RunResult
        The parent's folder, or what `regimes.run` returned.
    at : int
        Steps that the child has behind it; its records up to there, and its work, are the parent's.
    edits : mapping of str to value, optional
        As `Regime.but` takes them.
    seed : int, optional
        Of everything drawn from there on: data order, dropout, noise. Default the parent's.
    out : path, optional
        The child's folder. Default: beside the parent's, called by step and regime, so that the same fork finds it.
    workload : Workload, optional
        Where the parent's folder does not say how it is built.
    max_time : str or float, optional
        As of `regimes.run`.
    progress : bool, optional
        As of `regimes.run`.

    Returns
    -------
    RunResult
        Of the whole, the parent's part included; ``lineage["changes"]`` says what changed at the fork: edits, values
        of knobs before and after, the horizon, and which states were carried.

    Raises
    ------
    DeclarationError
        If there are no records of so many steps, an edit is refused or is of what is over, or nothing is left to train.
    ResumeError
        If the parent cannot be trained again to the bit here, or `out` holds another run.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=rg.Linear(0.1)), batch_size=4, budget="20 steps")
    >>> folder = tempfile.mkdtemp()
    >>> parent = rg.run(rg.workloads.load("quadratic"), regime, out=f"{folder}/base")
    >>> child = rg.fork(parent, at=10, edits={"lr.peak": 0.04, "budget": "40 steps"})
    >>> child.steps, child.records[:10] == parent.records[:10]
    (40, True)
    >>> child.lineage["changes"]["knobs"]
    [{'path': 'optimizer.lr', 'before': 0.05, 'after': 0.03}]
    """
    stored = opened(run, workload)
    regime = stored.regime.but(dict(edits or {}))
    return branch_at(stored, step_of("at", at), regime, out, seed).train(max_time, progress)


def branch_longer(stored: Stored, budget: str, schedule: str | None, at: int | None, out: str | Path | None) -> Branch:
    """Make the folder of a longer child; see `extend`."""
    extra: Duration = extra_of(budget)
    step = stored.end() if at is None else step_of("at", at)
    with threads_of(stored):
        regime = longer(stored.again(step).until(step), extra, schedule)
    return branch_at(stored, step, regime, out)


def extend(
    run: str | Path | RunResult,
    budget: str,
    schedule: str | None = None,
    *,
    at: int | None = None,
    out: str | Path | None = None,
    workload: Workload | None = None,
    max_time: str | float | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Train a run on: a fork whose last phase is longer, in a folder of its own.

    Parameters
    ----------
    run : path or RunResult
        The parent's folder, or what `regimes.run` returned.
    budget : str
        What is added: ``"+2B tokens"``, ``"+50%"`` of the last phase.
    schedule : "rescale", "hold" or "cooldown", optional
        What schedules do: are read over the longer run; keep the value of now (that at `at`); or, those called lr, go
        down to 0 in a straight line from here, the others hold. Needed where it makes a difference. The child's
        declaration says it with `Window` and `Then`.
    at : int, optional
        The step to go on from; default the last that there is a record of.
    out, workload, max_time, progress
        As of `fork`.

    Returns
    -------
    RunResult

    Raises
    ------
    DeclarationError
        If a schedule would do one thing or another and nothing is said, with the rate under each; as `fork`.
    ResumeError
        As `fork`.

    Examples
    --------
    >>> import tempfile, regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="20 steps")
    >>> parent = rg.run(rg.workloads.load("quadratic"), regime, out=f"{tempfile.mkdtemp()}/base")
    >>> rg.extend(parent, "+10 steps").steps
    30
    >>> rg.extend(parent, "+10 steps", "cooldown").regime.optimizer.lr
    Then(Constant(0.1), second=Linear(0.1), at='20 steps')
    """
    return branch_longer(opened(run, workload), budget, schedule, at, out).train(max_time, progress)


def probe_of(name: Any) -> Any:
    """Return a probe by its name in any case, or in snake case, with arguments in notation.

    Raises
    ------
    DeclarationError
        If there is none of that name.

    Examples
    --------
    >>> probe_of("layer_norms"), probe_of("exampleloss(hardest=5)")
    (LayerNorms(), ExampleLoss(hardest=5))
    """
    from regimes.core.kinds import Probe
    from regimes.core.registry import REGISTRY

    if isinstance(name, Probe):
        return name
    if not isinstance(name, str):
        raise DeclarationError(f"got {show(name)}; allowed: a probe, or its name", "probe")
    head, bracket, rest = name.strip().partition("(")
    squashed = head.replace("_", "").replace("-", "").lower()
    known = {cls.__name__.lower(): cls.__name__ for cls in REGISTRY.classes("probe")}
    try:
        made = parse(known.get(squashed, head) + bracket + rest, ("probe",))
    except DeclarationError as why:
        raise why.within("probe") from None
    if not isinstance(made, Probe):
        raise DeclarationError(f"got {show(name)}; allowed: a probe, for example sharpness", "probe")
    return made
