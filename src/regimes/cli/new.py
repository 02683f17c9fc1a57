"""``regimes new``: write a component of one's own, with its test."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

from regimes.cli import common

_FOLDER = os.path.join(os.path.dirname(__file__), "templates")
KINDS = (
    "augment", "averager", "controller", "grad_transform", "loss", "model_transform", "optimizer", "probe", "sampler",
    "schedule", "selector",
)  # fmt: skip


@common.command("new", "regimes new sampler EasyFirst --out plugins")
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option("--out", metavar="DIR", default=".", show_default=True, help="Where to.")
@common.as_json
def command(kind: str, name: str, out: str, as_json: bool) -> None:
    """Write a component of your own, with its test.

    One file holds class, card, docstring with an example, and a claim; a second its test, which passes. What they do is
    simple and exact: replace it by what you mean.
    """
    files = write(kind, name, Path(out))
    if as_json:
        common.print_json({"files": [str(file) for file in files]})
        return
    for file in files:
        click.echo(str(file))
    module = files[0].stem
    click.echo(f"try it:    python -m pytest {files[1]}")
    click.echo(f"use it:    modules: [{module}] in a YAML file, then {name}(...); or import it in Python")
    click.echo(f'ship it:   [project.entry-points."regimes.components"]  {name} = "yourpackage.{module}:{name}"')


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the two files and return them.

    Raises
    ------
    DeclarationError
        If the name is no class name, is taken, or a file stands there already.
    """
    from regimes import atlas
    from regimes.core.errors import DeclarationError

    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name):
        raise DeclarationError(f"got '{name}'; allowed: a class name such as EasyFirst", "NAME")
    taken = atlas.find(name)
    if taken is not None:
        raise DeclarationError(f"got '{name}', which is {taken['module']}; choose another name", "NAME")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if module in sys.stdlib_module_names:
        raise DeclarationError(f"got '{name}', whose file would hide Python's own module '{module}'", "NAME")
    body, test, imports = _template(kind).split("==== test ====\n")[0], *_test_parts(kind)
    contents = {
        folder / f"{module}.py": body,
        folder / f"test_{module}.py": _template("test").replace("{{test}}", test).replace("{{imports}}", imports),
    }
    for file in contents:
        if file.exists():
            raise DeclarationError(f"{file} exists; give another --out", "NAME")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in contents.items():
        file.write_text(text.replace("{{Name}}", name).replace("{{name}}", module), encoding="utf-8")
    return list(contents)


def _template(name: str) -> str:
    return Path(_FOLDER, f"{name}.txt").read_text(encoding="utf-8")


def _test_parts(kind: str) -> tuple[str, str]:
    test, imports = _template(kind).split("==== test ====\n")[1].split("==== imports ====\n")
    return test, imports
