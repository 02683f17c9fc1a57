"""Re-test what a method's card claims: a small study each, judged as shown, contradicted or inconclusive."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

from regimes.core.card import Claim
from regimes.core.errors import DeclarationError
from regimes.core.registry import REGISTRY
from regimes.engine.folder import write_json
from regimes.study import files, statistics
from regimes.study.compare import compare
from regimes.study.study import Study

#: Written by `verify(..., record=True)` alone; no verdict is ever typed.
VERDICTS = Path(__file__).parent.parent / "atlas" / "verdicts.json"


def verify(
    name: str,
    *,
    out: str | Path = "runs/verify",
    workers: int = 1,
    progress: bool | None = None,
    record: bool = False,
) -> list[dict[str, Any]]:
    """Run the studies behind a component's claims, and say what came of them.

    Parameters
    ----------
    name : str
        A registered component.
    out : path
        Folder of the studies; what is there is not computed again.
    workers : int
        Runs side by side.
    record : bool
        Write the verdicts into the package's data file.

    Returns
    -------
    list of dict
        ``component, text, verdict, effect, low, high, margin, n, scale, paper_scale, seeds, code, machine`` per claim.

    Raises
    ------
    DeclarationError
        If there is no such component, or its card claims nothing.
    """
    cls = REGISTRY.find(name)
    card = getattr(cls, "card", None)
    if card is None or not card.claims:
        raise DeclarationError(f"the card of {name} claims nothing that could be re-tested")
    found = []
    for number, claim in enumerate(card.claims):
        study = run_claim(claim, Path(out) / f"{name}-{number}", workers, progress)
        found.append(_judged(cls, claim, study))
    if record:
        _record(name, found)
    return found


def claimants() -> list[str]:
    """Return the names of the built-in components whose cards claim something, in order."""
    own = [cls for cls in REGISTRY.classes() if cls.__module__.startswith("regimes.")]
    return sorted(cls.__name__ for cls in own if (card := getattr(cls, "card", None)) is not None and card.claims)


def run_claim(claim: Claim, folder: Path, workers: int, progress: bool | None) -> Study:
    """Run one claim's study: it is a file to compare, written as JSON, which is YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "claim.yaml"
    file.write_text(json.dumps(claim.study, indent=1))
    declared = files.read(file)
    assert isinstance(declared, files.CompareFile)
    from regimes.study import specs

    make = (specs.workload_in, (declared.workload_spec, (str(Path.cwd()),)))
    return compare(
        declared.workload,
        declared.arms,
        out=folder,
        workers=workers,
        progress=progress,
        make=make,
        command=f"regimes compare {file}",
        **declared.settings,
    )


def _judged(cls: type, claim: Claim, study: Study) -> dict[str, Any]:
    facts = study.to_dict()
    arm = next(a for a in facts["arms"] if a["name"] != facts["baseline"])
    comparison = arm["comparison"] or {"difference": None, "low": None, "high": None}
    low, high = comparison["low"], comparison["high"]
    bounded = low is not None and high is not None
    return {
        "component": cls.__name__,
        "text": claim.text,
        "verdict": statistics.claim_outcome(low, high, facts["margin"], claim.says) if bounded else "inconclusive",
        "effect": comparison["difference"],
        "low": low,
        "high": high,
        "margin": facts["margin"],
        "n": len(facts["seeds"]),
        "scale": f"{facts['workload']['name']}, {facts['workload']['scale']}, {len(facts['seeds'])} seeds",
        "paper_scale": claim.paper_scale,
        "seeds": facts["seeds"],
        "code": code_of(cls),
        "machine": f"{platform.machine()} {facts['environment']['device']}, torch {facts['environment']['torch']}",
    }


def code_of(cls: type) -> str:
    """Digest of the source of the module that defines a component: a verdict older than it is stale."""
    file = sys.modules[cls.__module__].__file__
    return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()[:16]


def recorded(name: str | None = None) -> list[dict[str, Any]]:
    """Return the recorded verdicts, of one component if named."""
    if not VERDICTS.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(VERDICTS.read_text())["verdicts"]
    return [row for row in rows if name is None or row["component"] == name]


def _record(name: str, found: list[dict[str, Any]]) -> None:
    kept = [row for row in recorded() if row["component"] != name]
    write_json(
        VERDICTS, {"schema": 1, "verdicts": sorted(kept + found, key=lambda row: (row["component"], row["text"]))}
    )
