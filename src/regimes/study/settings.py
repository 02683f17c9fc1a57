"""Settings of a comparison and options of a run, the same from YAML and Python files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from regimes.core.duration import Duration, seconds
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Probe
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.study import skeleton
from regimes.study.problems import Problems
from regimes.study.ranges import Range, tuned
from regimes.study.yaml_text import Node


def settings_of(
    checked: skeleton.Settings, ranges: dict[str, Range], problems: Problems, root: Node | None
) -> dict[str, Any]:
    """Return the keyword arguments of `regimes.compare` that a file gives, ``tune`` among them.

    A study without a name has that of its file: two files never write into one folder unasked.
    """
    given = checked.model_dump(by_alias=True)
    if "name" not in checked.model_fields_set:
        given["name"] = Path(problems.file).stem
    _check_durations(given, ("validate",), "compare", problems, root)
    return given | ({"tune": ranges} if ranges else {})


def options_of(
    checked: skeleton.Options, problems: Problems, root: Node | None, probes: Sequence[Any] = ()
) -> dict[str, Any]:
    """Return the keyword arguments of `regimes.run` that a file gives; `probes` are those given as objects."""
    given = checked.model_dump(by_alias=True)
    _check_durations(given, ("validate", "checkpoint"), "options", problems, root)
    texts = [given["probes"]] if isinstance(given["probes"], str) else given["probes"]
    try:
        seconds(given["max_time"])
    except DeclarationError as why:
        problems.add("options.max_time", why.message, _line(root, "options.max_time"))
    try:
        found = [*probes, *(parse(text, ("probe",)) for text in texts)]
    except DeclarationError as why:
        problems.add("options.probes", why.message, _line(root, "options.probes"))
        return given
    for probe in found:
        if not isinstance(probe, Probe):
            problems.add("options.probes", f"got {show(probe)}; allowed: a Probe", _line(root, "options.probes"))
    return given | {"probes": found}


def _check_durations(
    given: dict[str, Any], names: tuple[str, ...], lead: str, problems: Problems, root: Node | None
) -> None:
    for name in names:
        if given[name] is not None:
            try:
                Duration.parse(given[name])
            except DeclarationError as why:
                problems.add(f"{lead}.{name}", why.message, _line(root, f"{lead}.{name}"))


def _line(root: Node | None, key: str) -> int | None:
    return None if root is None else root.line_of(key)


def range_of(value: Any) -> Range | str:
    """Return a range, or the sentence that refuses it."""
    try:
        made = parse(value) if isinstance(value, str) else value
    except DeclarationError as why:
        return why.message
    if isinstance(made, Range):
        return made
    return f"got {show(value)}; allowed: times(1/8, 8) or between(1e-4, 1e-2)"


def check_comparison(arms: dict[str, Any], settings: dict[str, Any], problems: Problems, root: Node | None) -> None:
    """Note a baseline that is no arm, and tuned patterns that do not fit an arm."""
    base = settings.get("baseline")
    if base is not None and base not in arms:
        problems.add(
            "compare.baseline", f"there is no arm '{base}'; {nearest(base, arms)}", _line(root, "compare.baseline")
        )
    for pattern, range_ in settings.get("tune", {}).items():
        for name, regime in arms.items():
            if not isinstance(regime, Regime):
                continue  # what a command takes is known with its line
            try:
                tuned(regime, {pattern: range_}, {pattern: 0.5})
            except DeclarationError as why:
                problems.add(f"tune.{pattern}", f"in arm '{name}': {why.message}", _line(root, f"tune.{pattern}"))
    problems.refuse()
