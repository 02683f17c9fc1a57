"""A YAML file as a declaration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study import skeleton, yaml_text
from regimes.study.command import declared
from regimes.study.command.values import Values
from regimes.study.declarations import CompareFile, RunFile
from regimes.study.declared import Reader
from regimes.study.leaves import MANGLED, Leaves
from regimes.study.problems import Problems
from regimes.study.ranges import Range
from regimes.study.settings import check_comparison, options_of, range_of, settings_of
from regimes.study.specs import user_module


def read_file(file: Path) -> RunFile | CompareFile:
    """Read a YAML file; the workload is not built.

    Raises
    ------
    FileErrors
        With every problem found, its line and key.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as why:
        raise DeclarationError(f"'{file}' is no UTF-8 text ({why.reason} at byte {why.start})") from None
    return read_yaml(text, file)


def read_yaml(text: str, file: str | Path = "declaration.yaml") -> RunFile | CompareFile:
    """Read the text of a YAML file; the workload is not built.

    Raises
    ------
    FileErrors
        With every problem found, its line and key.

    Examples
    --------
    >>> found = read_yaml('''
    ... workload: digits_mlp
    ... seed: 3
    ... regime:
    ...   budget: 6000 steps
    ...   batch_size: 32
    ...   optimizer: SGD(lr=Cosine(0.1, warmup="5%"), momentum=0.9)
    ... ''')
    >>> found.workload_spec, found.seed
    ('digits_mlp', 3)
    >>> found.regime
    Regime(optimizer=SGD(lr=Cosine(0.1, warmup='5%'), momentum=0.9), batch_size=32, budget='6000 steps')
    """
    problems = Problems(str(file))
    root = yaml_text.read(text, str(file))
    if not isinstance(root.value, dict):
        problems.add(
            "", f"got {show(root.data)}; allowed: a mapping with workload: and regime:, or arms: and compare:", 1
        )
        problems.refuse()
    comparing = "arms" in root.value or "compare" in root.value
    if comparing and "regime" in root.value:
        problems.add("regime", "stands beside arms: or compare:; a file has one or the other", root.line_of("regime"))
    data = {name: value for name, value in root.data.items() if not (comparing and name == "regime")}
    model = skeleton.CompareSkeleton if comparing else skeleton.RunSkeleton
    checked = skeleton.check(model, data, root, problems)
    _import_modules(data.get("modules"), problems, root)
    reader = Reader(root, problems)
    if comparing:
        command = isinstance(data.get("workload"), dict) and "command" in data["workload"]
        read_arms = (lambda node: command_arms(node, problems)) if command else reader.arms
        arms = read_arms(root.value["arms"]) if _has(root, "arms", dict) else {}
        ranges = _ranges(root, problems)
        if command:
            for why in declared.problems(data["workload"], arms, ranges, data.get("compare")):
                problems.add(why.key, why.message, root.line_of(why.key))
        problems.refuse()
        settings = settings_of(checked.compare, ranges, problems, root)
        check_comparison(arms, settings, problems, root)
        return CompareFile(None, data["workload"], Path(file), root, arms, settings)
    regime = reader.regime(root.value["regime"], "regime") if _has(root, "regime", dict, str) else None
    options = {} if checked is None else options_of(checked.options, problems, root)
    problems.refuse()
    assert regime is not None
    return RunFile(None, data["workload"], Path(file), root, regime, checked.seed, options)


def _has(root: yaml_text.Node, name: str, *kinds: type) -> bool:
    return name in root.value and isinstance(root.value[name].value, kinds)


def command_arms(node: yaml_text.Node, problems: Problems) -> dict[str, Any]:
    """Return the arms of a command, values by name; ``like: ARM`` takes over another's that stands before."""
    made: dict[str, Any] = {}
    for name, child in node.value.items():
        data = {} if child.data is None else child.data
        if not isinstance(data, dict):
            problems.add(f"arms.{name}", f"got {show(data)}; allowed: a mapping of the command's names", child.line)
            continue
        like = data.get("like")
        if like is not None and like not in made:
            told = f"got {show(like)}, which is no arm before this; {nearest(str(like), made)}"
            problems.add(f"arms.{name}.like", told, child.line)
            continue
        own = {key: value for key, value in data.items() if key != "like"}
        try:
            made[name] = Values({**(made[like].given if like is not None else {}), **own})
        except DeclarationError as why:
            key = f"arms.{name}.{why.key}"
            problems.add(key, why.message, node.line_of(f"{name}.{why.key}"))
    return made


def _import_modules(names: Any, problems: Problems, root: yaml_text.Node) -> None:
    """Import the user's own modules: their classes may then be named, as ``module:Class`` or as they register."""
    for place, name in enumerate(names if isinstance(names, list) else ()):
        if isinstance(name, str):
            try:
                user_module(name)
            except DeclarationError as why:
                problems.add(f"modules.{place}", why.message, root.line_of(f"modules.{place}"))


def _ranges(root: yaml_text.Node, problems: Problems) -> dict[str, Range]:
    if not _has(root, "tune", dict):
        return {}
    leaves, found = Leaves(root.value["tune"], "tune", problems), {}
    for pattern in leaves.items:
        text = leaves.value(pattern)
        if text is not MANGLED:
            range_ = range_of(text)
            if isinstance(range_, Range):
                found[pattern] = range_
            else:
                problems.add(f"tune.{pattern}", range_, leaves.items[pattern].line)
    return found
