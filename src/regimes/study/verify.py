"""Re-test what a method's card claims: a small study each, judged as shown, contradicted or inconclusive."""

from __future__ import annotations

import importlib
import json
import math
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from regimes import atlas
from regimes.core.card import Claim
from regimes.core.errors import DeclarationError
from regimes.core.files import write_json
from regimes.core.registry import REGISTRY
from regimes.study import files, statistics
from regimes.study.compare import compare
from regimes.study.spawning import context, end_with_parent
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
    owner = _claimant(name)
    card = getattr(owner, "card", None)
    if card is None or not card.claims:
        raise DeclarationError(f"the card of {name} claims nothing that could be re-tested")
    found = []
    for number, claim in enumerate(card.claims):
        folder = Path(out) / f"{name}-{number}"
        folder.mkdir(parents=True, exist_ok=True)
        if claim.measure:
            code = code_of(importlib.import_module(claim.measure.partition(":")[0]))
            judged = _of_values(claim, measured(claim, folder, workers, progress, code))
            judged |= {"measure": claim.measure, "measure_code": code}
        else:
            judged = _of_study(claim, run_claim(claim, folder, workers, progress))
        found.append({"component": name, "text": claim.text, **judged, "code": code_of(sys.modules[owner.__module__])})
    if record:
        _record(name, found)
    return found


def claimants() -> list[str]:
    """Return the names of the built-in components and functions whose cards claim something, in order."""
    own = [cls for cls in REGISTRY.classes() if cls.__module__.startswith("regimes.")]
    named = [cls.__name__ for cls in own] + [entry["name"] for entry in atlas.load()["functions"]]
    return sorted(name for name in named if (card := getattr(_claimant(name), "card", None)) and card.claims)


def _claimant(name: str) -> Any:
    """A registered component, or a function that has a card."""
    for entry in atlas.load()["functions"]:
        if entry["name"] == name:
            return getattr(importlib.import_module(entry["module"]), name)
    return REGISTRY.find(name)


def run_claim(claim: Claim, folder: Path, workers: int, progress: bool | None) -> Study:
    """Run one claim's study: it is a file to compare, written as JSON, which is YAML."""
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


def measured(
    claim: Claim, folder: Path, workers: int, progress: bool | None, code: str
) -> dict[int, tuple[float, float]]:
    """Return (value, baseline) of every seed of a claim that names what measures them; each is kept as it comes."""
    file = folder / "measured.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    found = {int(seed): tuple(pair) for seed, pair in kept.get("seeds", {}).items()} if kept.get("code") == code else {}
    missing = [seed for seed in range(claim.study["seeds"]) if seed not in found]
    quiet = not (sys.stderr.isatty() if progress is None else progress)
    with (
        Progress(console=Console(stderr=True), disable=quiet) as bar,
        ProcessPoolExecutor(workers, mp_context=context(workers), initializer=end_with_parent) as pool,
    ):
        pairs = pool.map(_measure, [claim.measure] * len(missing), missing)
        for seed, pair in zip(missing, bar.track(pairs, len(missing), description=folder.name)):
            found[seed] = pair
            write_json(file, {"code": code, "seeds": {str(s): list(pair) for s, pair in sorted(found.items())}})
    return dict(sorted(found.items()))


def _measure(place: str, seed: int) -> tuple[float, float]:
    torch.set_num_threads(1)
    module, _, function = place.partition(":")
    value, baseline = getattr(importlib.import_module(module), function)(seed)
    return float(value), float(baseline)


def _of_values(claim: Claim, found: dict[int, tuple[float, float]]) -> dict[str, Any]:
    """What paired values say about a claim."""
    differences = [value - baseline for value, baseline in found.values()]
    interval = statistics.simultaneous_paired_intervals({"claim": differences})["claim"]
    scale = f"{claim.study['scale']}, {len(found)} seeds"
    return _verdict(claim, interval.mean, interval.low, interval.high, claim.study["margin"], scale, list(found))


def _of_study(claim: Claim, study: Study) -> dict[str, Any]:
    """What a study says about a claim."""
    facts = study.to_dict()
    arm = next(a for a in facts["arms"] if a["name"] != facts["baseline"])
    comparison = arm["comparison"] or {"difference": None, "low": None, "high": None}
    seeds = facts["seeds"]
    scale = f"{facts['workload']['name']}, {facts['workload']['scale']}, {len(seeds)} seeds"
    low, high, device = comparison["low"], comparison["high"], facts["environment"]["device"]
    return _verdict(claim, comparison["difference"], low, high, facts["margin"], scale, seeds, device)


def _verdict(
    claim: Claim, effect: Any, low: Any, high: Any, margin: float, scale: str, seeds: list[int], device: str = "cpu"
) -> dict[str, Any]:
    bounded = all(end is not None and math.isfinite(end) for end in (low, high))
    return {
        "verdict": statistics.claim_outcome(low, high, margin, claim.says) if bounded else "inconclusive",
        "effect": effect,
        "low": low if bounded else None,
        "high": high if bounded else None,
        "margin": margin,
        "n": len(seeds),
        "scale": scale,
        "paper_scale": claim.paper_scale,
        "seeds": seeds,
        "machine": f"{platform.machine()} {device}, torch {torch.__version__}",
    }


def code_of(module: ModuleType) -> str:
    """Digest of the code of a module (a component's; that of what measures its claim): a verdict older is stale."""
    return atlas.digest(Path(str(module.__file__)).read_text(encoding="utf-8"))


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
