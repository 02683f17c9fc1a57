"""Check a declaration file against its workload: everything that would be refused later, and nothing trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regimes.core.regime import Regime
from regimes.engine.observation import Observer
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study.files import CompareFile, RunFile
from regimes.study.rehearsal import entered


def check(found: RunFile | CompareFile) -> dict[str, Any]:
    """Enter every phase of every regime of a file, without a step; return what the file holds.

    Returns
    -------
    dict
        ``kind``, ``workload``, what is declared, and sentences under ``says``.

    Raises
    ------
    FileErrors
        With the line of what is refused.
    """
    if isinstance(found, RunFile):
        with found.located("regime"):
            run = enter(found.workload, found.regime, found.seed, validate=found.options["validate"])
            Observer(run, found.options["probes"])
        says = [f"a run on {found.workload.name}: {_phases(found.regime)}"]
        return {"kind": "run", "workload": found.workload.name, "regime": repr(found.regime), "says": says}
    for name, regime in found.arms.items():
        if isinstance(regime, Regime):
            with found.located(f"arms.{name}"):
                enter(found.workload, regime, 0)
    with found.located(""):
        design = design_of(found.workload, found.arms, found.settings)
    says = [
        f"a comparison on {found.workload.name} in {design.metric}, margin {design.margin:g}, "
        f"{len(design.seeds)} seeds, {design.trials} trials, at {design.budget}"
    ]
    if design.halving is not None:
        says.append(f"halving: {design.halving.words}, which alone are judged: {design.runs} runs")
    says += [f"arm {name}: {_phases(regime)}" for name, regime in found.arms.items()]
    says += [f"note: {note}" for note in design.notes]
    arms = {name: repr(regime) for name, regime in found.arms.items()}
    return {"kind": "comparison", "workload": found.workload.name, "arms": arms, "says": says}


def enter(workload: Workload, regime: Regime, seed: int, validate: str | None = None) -> Run:
    """Return a run that has entered every phase, without a step.

    Raises
    ------
    DeclarationError
        If one of them cannot be entered.
    """
    run = Run(workload, regime, seed, validate=validate)
    for _ in entered(run):
        pass
    return run


#: What a comparison asks, in the order in which a design takes it, with what it is where a file says nothing.
_DEFAULTS: dict[str, Any] = {
    "baseline": None, "metric": None, "better": None, "margin": None, "seeds": None, "tune": {}, "trials": 0,
    "equal": None, "level": 0.95, "until": None, "assume": None, "search": "quasi", "validate": None,
}  # fmt: skip
_ASKED = tuple(name for name in _DEFAULTS if name != "validate")


def design_of(workload: Workload, arms: Mapping[str, Regime], settings: Mapping[str, Any]) -> Any:
    """Return the checked design of a comparison.

    Raises
    ------
    DeclarationError
        For everything that the comparison would refuse.
    """
    from regimes.study import design
    from regimes.study.compare import subject_of

    given = _DEFAULTS | dict(settings)
    subject = subject_of(workload, {"validate": given["validate"]})
    return design.design_of(subject, dict(arms), *(given[name] for name in _ASKED))


def _phases(regime: Any) -> str:
    if not isinstance(regime, Regime):
        return repr(regime)
    if len(regime.phases) == 1:
        return str(regime.budget)
    return f"{len(regime.phases)} phases, " + ", ".join(f"{phase.name} {phase.budget}" for phase in regime.phases)
