"""``regimes diff``: where two declarations or runs differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from regimes.cli import common


@common.command("diff", "regimes diff study.yaml:adamw runs/base")
@click.argument("a")
@click.argument("b")
@common.as_json
def command(a: str, b: str, as_json: bool) -> None:
    """Show where two declarations or runs differ.

    A and B are declaration files (FILE:ARM for an arm of a comparison) or run folders; differences are knob paths.
    """
    left, right = _declaration(a), _declaration(b)
    rows = [
        {"path": name, "old": str(left[name]), "new": str(right[name])}
        for name in ("workload", "seed")
        if None not in (left[name], right[name]) and left[name] != right[name]
    ]
    rows += [difference._asdict() for difference in left["regime"].diff(right["regime"])]
    if as_json:
        common.print_json(rows)
        return
    if not rows:
        click.echo("they do not differ")
    for row in rows:
        click.echo(f"{row['path']}: {_shown(row['old'])} -> {_shown(row['new'])}")


def _shown(value: str | None) -> str:
    return "(nothing)" if value is None else value


def _declaration(text: str) -> dict[str, Any]:
    from regimes.core.errors import DeclarationError, nearest
    from regimes.study import files, places

    if (Path(text) / "run.json").is_file():
        return _of_run(Path(text))
    file, colon, arm = text.rpartition(":")
    if not colon or Path(text).is_file():
        file, arm = text, ""
    if Path(text).is_dir() or not file.endswith(places.SUFFIXES):
        raise DeclarationError(_refused(text))
    found = files.read(file, workload=False)
    if isinstance(found, files.RunFile):
        if arm:
            raise DeclarationError(f"got '{text}', but {file} declares one run, without arms; write {file}")
        return {"workload": found.workload_spec, "seed": found.seed, "regime": found.regime}
    if arm not in found.arms:
        hint = nearest(arm, found.arms) if arm else f"name one, for example {file}:{next(iter(found.arms))}"
        raise DeclarationError(f"{file} has several arms{f', but no {arm!r}' if arm else ''}; {hint}")
    return {"workload": found.workload_spec, "seed": None, "regime": found.arms[arm]}


def _refused(text: str) -> str:
    from regimes import atlas
    from regimes.study import places

    sentence = f"got '{text}'; allowed: a declaration file, FILE:ARM, or a run's folder"
    if atlas.find(text) is not None:
        return f"{sentence}; it is a component; look at it with: regimes show {text}"
    return places.refused(sentence, text)


def _of_run(folder: Path) -> dict[str, Any]:
    from regimes.core.errors import DeclarationError
    from regimes.core.files import read_json
    from regimes.core.notation import parse
    from regimes.study.stored import prepare_imports

    declared = read_json(folder / "run.json")
    prepare_imports(declared)
    seed = declared["identity"]["seed"]
    try:
        regime = parse(declared["regime"])
    except DeclarationError as why:
        raise DeclarationError(
            f"{folder} holds a regime that only its program can build ({declared['regime']}): {why}"
        ) from None
    return {"workload": declared["workload_spec"], "seed": seed, "regime": regime}
