"""``regimes show``: a component's card, a run, a study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from regimes.cli import common


def _complete(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    from regimes import atlas

    entries = (e for e in atlas.entries() if e["shelf"] == "core")
    return [CompletionItem(e["name"], help=e["title"]) for e in entries if e["name"].lower().startswith(typed.lower())]


@common.command("show", "regimes show WSD")
@click.argument("name", shell_complete=_complete)
@common.as_json
def command(name: str, as_json: bool) -> None:
    """Show a component's card, a workload, a run or a study.

    NAME is a component, a built-in workload, a run's folder, or a study's folder.
    """
    folder = Path(name)
    if (folder / "run.json").is_file():
        _show_run(folder, as_json)
    elif (folder / "study.json").is_file() or folder.name == "study.json":
        from regimes.cli.report import load

        study = load(name)
        if as_json:
            common.print_json(study.to_dict())
        else:
            click.echo(str(study))
    else:
        _show_component(name, as_json)


def _show_component(name: str, as_json: bool) -> None:
    from regimes import atlas
    from regimes.core.errors import DeclarationError, nearest
    from regimes.study import places

    entry = atlas.find(name)
    if entry is None:
        if Path(name).exists():
            sentence = f"got '{name}'; allowed: a component, a workload, a run's folder or a study's"
            raise DeclarationError(places.refused(sentence, name))
        sentence = f"there is no component and no folder '{name}'"
        if "/" in name or "." in name:
            raise DeclarationError(places.refused(sentence, name))
        raise DeclarationError(f"{sentence}; {nearest(name, [e['name'] for e in atlas.entries()])}")
    if as_json:
        common.print_json(entry | {"verdicts": atlas.verdicts(entry["name"]), "doc": atlas.docstring(entry)})
        return
    click.echo(f"{entry['name']}: {entry['title']}")
    click.echo(f"  {entry['kind']}" + (f", {', '.join(entry['axes'])}" if entry["axes"] else ""))
    for word in ("when", "cost", "source"):
        if entry[word]:
            click.echo(f"  {word + ':':8s}{entry[word]}")
    if entry["needs"]:
        click.echo(f"  {'needs:':8s}{', '.join(entry['needs'])}")
    for text in entry["deviations"]:
        click.echo(f"  departs: {text}")
    found = {row["text"]: row for row in atlas.verdicts(entry["name"])}
    for text in entry["claims"]:
        judged = f" [{found[text]['verdict']} at {found[text]['scale']}]" if text in found else " [not yet re-tested]"
        judged += " (stale: the code has changed since)" if text in found and found[text]["stale"] else ""
        click.echo(f"  claim:   {text}{judged}")
    rows = [[f["name"], "required" if f["default"] is None else f["default"], f["allowed"]] for f in entry["fields"]]
    if rows:
        click.echo("\n" + common.table(rows, ["field", "default", "allowed"]))
    click.echo("\n" + atlas.docstring(entry))


#: Of the line that a run's losses are drawn as.
_BLOCKS = 48


def _show_run(folder: Path, as_json: bool) -> None:
    from regimes.core.errors import ResumeError
    from regimes.core.files import read_json
    from regimes.engine import records, standing
    from regimes.study.drawing import sparkline

    declared, facts = read_json(folder / "run.json"), standing.facts_of(folder)
    if facts is None:
        raise ResumeError(f"{folder / 'run.json'} is no file of ours")
    rows, said = records.read(folder)
    losses = [row["loss"] for row in rows if isinstance(row.get("loss"), int | float)]
    facts |= {"steps_recorded": len(rows), "seconds": records.seconds(folder), "notes": said}
    facts |= _skipped(rows)
    forked = {} if "lineage" not in declared else {"lineage": declared["lineage"]}
    if as_json:
        common.print_json(facts | {"folder": str(folder), "command": declared.get("command")} | forked)
        return
    click.echo(f"{folder}: {facts['workload']}, seed {facts['seed']}, {facts['status']} at step {facts['step']}")
    click.echo(f"  {facts['regime']}")
    if (lineage := declared.get("lineage")) is not None:
        click.echo(f"  a fork of {lineage['folder']} at step {lineage['at']}, of which the records up to there are")
    if losses:
        drawn = [math.log(loss) for loss in losses] if min(losses) > 0 else losses
        line = f"  loss {losses[0]:.4g} {sparkline(drawn, _BLOCKS)} {losses[-1]:.4g}   {facts['seconds']:.1f} s"
        shown = f"; a block shows the highest of {len(losses) / _BLOCKS:.3g} steps" if len(losses) > _BLOCKS else ""
        click.echo(line + shown)
    if facts["metrics"]:
        click.echo(f"  {common.numbers(facts['metrics'])}")
    if facts["skipped"]:
        click.echo(f"  skipped: {facts['skipped']} of {len(rows)} steps, {_first_skip(facts['first_skipped'])}")
    for note in said:
        click.echo(f"  note: {note}")
    for text in common.advice(facts["metrics"] or {}):
        click.echo(f"  advice: {text}")
    if facts["status"] != "finished":
        click.echo(f"  {_onwards(folder, facts['status'])}")


def _skipped(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many steps were skipped, those of trials apart, and the record of the first."""
    found = [row for row in rows if "skipped" in row and "trial" not in row]
    return {"skipped": len(found), "first_skipped": found[0] if found else None}


def _first_skip(row: dict[str, Any]) -> str:
    why = row["skipped"] if ":" in row["skipped"] else f"the {row['skipped']} was not finite"
    where = f" in layer '{row['layer']}'" if row.get("layer") else ""
    numbers = row.get("examples") or []
    shown = ", ".join(map(str, numbers[:6])) + (", ..." if len(numbers) > 6 else "")
    return f"the first at step {row['step']}: {why}{where}" + (f"; examples: {shown}" if numbers else "")


def _onwards(folder: Path, status: str) -> str:
    if status == "running":
        return "a process is training it"
    if status == "diverged":
        return "it gave up: too many steps in a row were not finite; change the regime, it ends here again"
    return f"continue with: regimes resume {folder}"
