"""Opening a run's folder: its declaration becomes values again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from regimes.core.errors import DeclarationError, ResumeError, show
from regimes.core.files import read_json
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.engine.result import RunResult
from regimes.engine.stored import Stored
from regimes.engine.workload import Workload
from regimes.study import places, specs


def opened(run: str | Path | RunResult, workload: Workload | None = None) -> Stored:
    """Return a run as its folder tells it; the folder is only read.

    Parameters
    ----------
    run : path or RunResult
        A run's folder, or what `regimes.run` returned.
    workload : Workload, optional
        What it trains, where its folder does not say how that is built.

    Raises
    ------
    ResumeError
        If there is no run, or nothing says how its workload is built.
    DeclarationError
        If its regime cannot be read here.
    """
    if isinstance(run, RunResult):
        if run.folder is None:
            raise ResumeError("the run was not kept in a folder; train it with out=")
        return Stored(run.folder, run.workload, run.regime)
    folder = Path(run)
    if not (folder / "run.json").is_file():
        raise ResumeError(places.refused(f"{folder} is no run folder: it holds no run.json", folder))
    declared = read_json(folder / "run.json")
    prepare_imports(declared)
    regime = parse(declared["regime"])
    if not isinstance(regime, Regime):
        raise ResumeError(f"{folder} holds {show(regime)}, which is no regime")
    return Stored(folder, workload if workload is not None else _workload(folder, declared), regime)


def prepare_imports(declared: dict[str, Any]) -> None:
    """Make what a run was built of importable: its directory, what lay beside its file, and the user's own modules."""
    words = [*declared["command"], *(declared.get("lineage") or {}).get("command", ())]
    home = Path(declared["directory"])
    files = [home / text for text in words if text.endswith(places.SUFFIXES)]
    specs.importable(home, *(file.resolve().parent for file in files))
    user_modules(declared)


def user_modules(declared: dict[str, Any]) -> None:
    """Import the modules of the user's own classes that a run was made of; whoever names its folder names them."""
    for name in declared["identity"].get("sources", ()):
        if not name.startswith(("regimes.", "_regimes_", "__main__")):
            with contextlib.suppress(DeclarationError):  # what is missing is named when the regime is read
                specs.user_module(name)


def _workload(folder: Path, declared: dict[str, Any]) -> Workload:
    spec = declared["workload_spec"]
    if spec is None:
        raise ResumeError(
            f"{folder}/run.json does not say how the workload is built; do it in the program that trained it, with "
            "workload=, or with what regimes.run returns there"
        )
    made: Workload = specs.load_workload(spec)
    return made


@contextlib.contextmanager
def threads_of(stored: Stored) -> Iterator[None]:
    """Inside, torch computes with as many threads as the run did: kernels add in another order with another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(stored.declared.get("threads", before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
