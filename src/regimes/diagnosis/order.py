"""The order in which a run trained on its examples, from its declaration and seed alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from regimes.core import fields, paths
from regimes.core.component import observes
from regimes.core.errors import DeclarationError, ResumeError, show
from regimes.core.files import read_json
from regimes.core.kinds import Controller
from regimes.core.notation import parse
from regimes.core.regime import Phase, Regime
from regimes.engine import records as records_on_disk
from regimes.engine import trials
from regimes.engine.plan import Plan
from regimes.engine.result import RunResult
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.losses import MSE
from regimes.optimizers import SGD
from regimes.study import specs


def trained_at(
    run: str | Path | RunResult | Workload, regime: Regime | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return the step at which a run last trained on each example.

    The data order is a pure function of declaration and seed: the plans of all steps are drawn again, nothing is
    trained, and no model is built.

    Parameters
    ----------
    run : path, RunResult or Workload
        A run's folder, what `regimes.run` returned (for a folder whose workload cannot be built by name: the same call
        again), or a workload, with `regime` and `seed`, for an order that was never trained in.
    regime : Regime, optional
        With a workload.
    seed : int
        With a workload. Default 0.

    Returns
    -------
    dict of str to ndarray of shape (examples,)
        By source; not a number where an example was never trained on, or (as records say) only in skipped steps.

    Raises
    ------
    DeclarationError
        If the order depends on losses or gradients (a sampler, a selector or a batch size with feedback), or on work
        that is not known (a budget in flops; in tokens without a run's records).
    ResumeError
        If a folder is no run's, does not say how its workload is built, or holds records that the declaration does not
        give.

    Examples
    --------
    >>> import regimes as rg
    >>> work = rg.workloads.load("teacher_student")
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="2 steps", sampler=rg.Sequential())
    >>> trained_at(work, regime)["train"][:9]
    array([ 0.,  0.,  0.,  0.,  1.,  1.,  1.,  1., nan])
    """
    workload, regime, seed, records = told(run, regime, seed)
    sizes = workload.view("train").sizes
    found = {name: np.full(size, np.nan) for name, size in sizes.items()}
    for number, plan in enumerate(replayed(workload, regime, seed, records)):
        if records is None or "skipped" not in records[number]:
            for name, indices in _by_source(plan, sizes):
                found[name][indices] = plan.step
    return found


def replayed(
    workload: Workload, regime: Regime, seed: int = 0, records: Sequence[dict[str, Any]] | None = None
) -> Iterator[Plan]:
    """Yield the plan of every step of a run, in order, without training.

    Parameters
    ----------
    workload : Workload
    regime : Regime
    seed : int
    records : sequence of dict, optional
        Of a run, those of trials left out: they say how many tokens each step had, and how far the run got.

    Raises
    ------
    DeclarationError, ResumeError
        As `trained_at`.
    """
    _refuse_feedback(regime)
    run = Run(_without_model(workload), _order_alone(regime), seed, count_flops=False, look_ahead=False)
    for length in (phase.length for phase in run.phases):
        if length.unit == "flops" or (length.unit == "tokens" and records is None):
            raise DeclarationError(
                f"got '{length.budget}', but without training it is not known how many {length.unit} a step has; allowed: "
                "a budget in steps, samples or epochs" + _OR_RECORDS[length.unit],
                "budget",
            )
    while not run.finished and (records is None or run.frame.step < len(records)):
        frame = run.frame
        if (slot := trials.proposed(run)[0]) != "":
            _refuse(run.phase.slots[slot], _path(regime, run.phase.name, slot))
        plan = frame.plans.pop(0)
        yield plan
        frame.cursor = plan.cursor
        frame.advance(len(plan), 0 if records is None else _tokens(records, run))
        run.settle()


_OR_RECORDS = {"flops": "", "tokens": ", or a run that was made, whose records say it"}


def told(run: Any, regime: Regime | None, seed: int) -> tuple[Workload, Regime, int, list[dict[str, Any]] | None]:
    """Return workload, regime, seed and records (None where nothing was trained) of what `trained_at` takes."""
    if isinstance(run, Workload):
        if not isinstance(regime, Regime):
            raise DeclarationError(f"got {show(regime)}; allowed beside a workload: a Regime", "regime")
        return run, regime, seed, None
    if isinstance(run, RunResult):
        return run.workload, run.regime, run.seed, run.records
    folder = Path(run)
    if not (folder / "run.json").is_file():
        raise ResumeError(f"{folder} is no run folder: it holds no run.json")
    declared = read_json(folder / "run.json")
    if declared.get("workload_spec") is None:
        raise ResumeError(
            f"{folder}/run.json does not say how the workload is built; make the same call of regimes.run again, which "
            "trains nothing where the run is finished, and give what it returns"
        )
    specs.importable(Path(declared["directory"]))
    for name in declared["modules"]:
        specs.user_module(name)
    workload = specs.load_workload(declared["workload_spec"])
    then, now = declared["identity"]["data"], workload.fingerprint()
    changed = [name for name in now if name.startswith("train/") and then.get(name) != now[name]]
    if changed:
        raise ResumeError(f"the data '{changed[0]}' are not those that {folder} was trained on")
    made: Any = parse(declared["regime"])
    return workload, made, declared["identity"]["seed"], _untried(records_on_disk.read(folder)[0])


def _untried(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in records if "trial" not in row]


def _refuse_feedback(regime: Regime) -> None:
    """Refuse whatever lets losses or gradients decide what is trained on."""
    for phase in regime.phases:
        slot = phase.data_slot
        if _learns(getattr(phase, slot)):
            _refuse(getattr(phase, slot), _path(regime, phase.name, slot))
        if phase.selector is not None:
            _refuse(phase.selector, _path(regime, phase.name, "selector"))
        for path, value, _ in paths.knobs(phase):
            if isinstance(value, Controller) and path.split(".")[0] in ("batch_size", slot):
                _refuse(value, _path(regime, phase.name, path))


def _learns(sampler: Any) -> bool:
    """Whether a sampler, or one inside it, remembers what is measured; those that hold another hand it on."""
    if sampler.needs or (observes(sampler) and "sampler" not in fields.table(type(sampler))):
        return True
    return any(_learns(part) for _, part in sampler.parts() if part.kind == "sampler")


def _refuse(component: Any, key: str) -> None:
    raise DeclarationError(
        f"got {component!r}, which decides by what it measures in training what is trained on; allowed: what knows the "
        "order beforehand",
        key,
    )


def _path(regime: Regime, phase: str, path: str) -> str:
    return f"{phase}.{path}" if len(regime.phases) > 1 else path


def _order_alone(regime: Regime) -> Regime:
    """A regime that draws what this one does."""
    phases = [
        Phase(
            phase.name,
            budget=phase.budget,
            optimizer=SGD(lr=0.0),
            batch_size=phase.batch_size,
            mixture=phase.mixture,
            sampler=phase.sampler,
            lag=phase.lag,
            carry=[path for path in phase.carry if path == "cursor"] + ["model"],
        )
        for phase in regime.phases
    ]
    return Regime(phases, budget=regime.budget)


def _without_model(workload: Workload) -> Workload:
    """The training data of a workload, with nothing to train."""
    light = copy.copy(workload)
    light.model, light.loss, light.metrics = nn.Linear(1, 1), MSE(), {}
    light.sources = {"train": workload.sources["train"]}
    return light


def _tokens(records: Sequence[dict[str, Any]], run: Run) -> int:
    """Tokens of the step that has just been drawn; of the last one nobody asks."""
    step, frame = run.frame.step, run.frame
    row = records[step]
    if (row["step"], row["phase"], row["samples"]) != (step, run.phase.name, frame.samples):
        raise ResumeError(
            f"the record of step {row['step']} (phase '{row['phase']}', {row['samples']} samples) is not what the "
            f"declaration gives: step {step}, phase '{run.phase.name}', {frame.samples} samples"
        )
    following = records[step + 1] if step + 1 < len(records) else row
    return int(following["tokens"] - row["tokens"])


def _by_source(plan: Plan, sizes: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """(source, its examples) of a plan."""
    sources, indices = plan.placed(sizes)
    for place, name in enumerate(sizes):
        yield name, indices[sources == place]
