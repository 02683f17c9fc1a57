"""``regimes resume``: continue a run that was stopped or killed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("resume", "regimes resume runs/base")
@click.argument("directory")
@common.progress
@common.as_json
def command(directory: str, progress: bool | None, as_json: bool) -> None:
    """Continue a run that was stopped or killed.

    It ends in the same bits as a run that was never stopped. Where run.json cannot say how the workload is built,
    the recorded command is run again in its recorded directory.
    """
    folder = Path(directory).resolve()
    declared = declared_in(folder, directory)
    if declared.get("workload_spec") is None:
        _repeat(declared)
    go_to(declared["directory"])
    result, before = _continue(folder, declared, progress)
    from regimes.cli.run import report

    report(result, finished_before=before, as_json=as_json)


def declared_in(folder: Path, called: str) -> dict[str, Any]:
    """Return what run.json says; torch is not needed for it."""
    from regimes.core.errors import ResumeError

    if not (folder / "run.json").is_file():
        from regimes.study import places

        raise ResumeError(places.refused(f"{called} is no run folder: it holds no run.json", called))
    try:
        declared = json.loads((folder / "run.json").read_text())
    except ValueError as why:
        raise ResumeError(f"{called}/run.json cannot be read ({why})") from None
    for name in ("regime", "identity", "options", "command", "directory"):
        if name not in declared:
            raise ResumeError(f"{called}/run.json says nothing of '{name}'; it is no run of ours")
    return declared


def _continue(folder: Path, declared: dict[str, Any], progress: bool | None) -> tuple[Any, bool]:
    import torch

    from regimes.core.notation import parse
    from regimes.engine import api
    from regimes.study import specs
    from regimes.study.stored import prepare_imports
    from regimes.track.tracking import tracked

    specs.importable(Path.cwd())
    prepare_imports(declared)
    torch.set_num_threads(declared.get("threads", torch.get_num_threads()))
    options = dict(declared["options"])
    options["probes"] = [parse(text) for text in options.get("probes", ())]
    before = (folder / "result.json").exists()
    with common.shown_by(folder):
        result = api.run(
            specs.load_workload(declared["workload_spec"]),
            parse(declared["regime"]),
            declared["identity"]["seed"],
            out=folder,
            progress=progress,
            workload_spec=declared["workload_spec"],
            track=tracked(folder),
            **options,
        )
    return result, before


def go_to(directory: str) -> None:
    """Work in the directory in which a run was started, which its workload may name files of."""
    if os.path.isdir(directory):
        os.chdir(directory)
    else:
        click.echo(f"the run's directory {directory} is gone; going on here", err=True)


def _repeat(declared: dict[str, Any]) -> None:
    """Run the recorded command again, in place of this process."""
    command = declared["command"]
    click.echo(
        "run.json does not say how the workload is built; running the recorded command again in "
        f"{declared['directory']}: {shlex.join(command)}",
        err=True,
    )
    go_to(declared["directory"])
    sys.stdout.flush()
    os.execv(command[0], command)
