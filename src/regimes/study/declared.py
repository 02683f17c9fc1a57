"""A mapping of a declaration file becomes a Regime; arms are derived from one another with ``like:``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regimes.core import fields
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.notation import parse
from regimes.core.regime import Phase, Regime, field_hint
from regimes.study.leaves import MANGLED, Leaves
from regimes.study.problems import Problems
from regimes.study.skeleton import PHASE_FIELDS
from regimes.study.yaml_text import Node

_PHASE = fields.table(Phase)
_BOOLEANS = frozenset(name for name, info in _PHASE.items() if info.annotation is bool)


class Reader:
    """Builds regimes from the parts of one file, noting problems with their lines.

    Parameters
    ----------
    root : Node
        The whole file.
    problems : Problems
    """

    def __init__(self, root: Node, problems: Problems) -> None:
        self.root, self.problems = root, problems

    def note(self, why: DeclarationError, key: str, short: bool = False) -> None:
        """Note a refusal below `key`, at the line of the deepest key it names."""
        inner = why.key.removeprefix("main.") if short else why.key
        path = f"{key}.{inner}" if inner else key
        self.problems.add(path, why.message, self.root.line_of(path))

    # -- one regime ----------------------------------------------------------------------------------------

    def regime(self, node: Node, key: str, base: Regime | None = None) -> Regime | None:
        """Return the regime that stands at `key`, derived from `base` if given; None after noting problems."""
        before = len(self.problems.found)
        if isinstance(node.value, str):
            return self._printed(node.value, key)
        if not isinstance(node.value, dict):
            return None  # the skeleton has refused it
        leaves = Leaves(node, key, self.problems, _BOOLEANS)
        fields_, edits = self._sorted_keys(leaves, base)
        phases = self._phases(leaves, base) if "phases" in leaves.items else None
        if base is not None and phases is None:
            base = self._edited(base, fields_ | edits, key)
            return None if len(self.problems.found) > before else base
        if len(self.problems.found) > before:
            return None
        whole = fields_.pop("budget", None if base is None else base.budget)
        defaults = (_shared(base) if base is not None else {}) | fields_
        try:
            made = Regime(phases, budget=whole, **defaults)
        except DeclarationError as why:
            self.note(why, key, short=True)
            return None
        return self._edited(made, edits, key)

    def _printed(self, text: str, key: str) -> Regime | None:
        try:
            made = parse(text)
        except DeclarationError as why:
            self.note(why, key)
            return None
        if isinstance(made, Regime):
            return made
        self.problems.add(key, f"got {show(text)}; allowed: a mapping, or Regime(...)", self.root.line_of(key))
        return None

    def _sorted_keys(self, leaves: Leaves, base: Regime | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return whole fields (validated where nothing is derived) and edits by path."""
        whole: dict[str, Any] = {}
        edits: dict[str, Any] = {}
        for name in leaves.items:
            key = leaves.path(name)
            if name == "phases" or (name == "like" and base is not None):
                continue
            if name in PHASE_FIELDS:
                value = self._field(leaves, name) if base is None else leaves.value(name)
                if value is not MANGLED:
                    whole[name] = value
            elif base is not None:
                value = leaves.value(name)
                if value is not MANGLED:
                    edits[name] = value
            elif "." in name or "*" in name:
                message = "is a path, which edits a regime that like: names; here write whole fields"
                self.problems.add(key, message, self.root.line_of(key))
            else:
                options = [*PHASE_FIELDS, "phases", *(["like"] if key.startswith("arms.") else [])]
                self.problems.add(key, f"is no field of a regime; {_hint(name, options)}", self.root.line_of(key))
        return whole, edits

    def _field(self, leaves: Leaves, name: str) -> Any:
        value = leaves.value(name)
        if value is MANGLED:
            return MANGLED
        try:
            return _PHASE[name].coerce(value, name)
        except DeclarationError as why:
            self.note(why, leaves.key)
            return MANGLED

    def _edited(self, regime: Regime, edits: Mapping[str, Any], key: str) -> Regime | None:
        failed = False
        for path, value in edits.items():
            try:
                regime = regime.but({path: value})
            except DeclarationError as why:
                failed = True
                line = self.root.line_of(f"{key}.{path}")
                inner = why.key.removeprefix("main.") if len(regime.phases) == 1 else why.key
                self.problems.add(f"{key}.{inner or path}", why.message, line)
        return None if failed else regime

    # -- phases --------------------------------------------------------------------------------------------

    def _phases(self, leaves: Leaves, base: Regime | None) -> list[Phase] | None:
        node, key = leaves.items["phases"], leaves.path("phases")
        if not isinstance(node.value, list) or not node.value:
            self.problems.add(key, f"got {show(node.data)}; allowed: a list of phases, one mapping each", node.line)
            return None
        made = [self._phase(child, f"{key}.{place}", base) for place, child in enumerate(node.value)]
        return [phase for phase in made if phase is not None]

    def _phase(self, node: Node, key: str, base: Regime | None) -> Phase | None:
        if not isinstance(node.value, dict):
            self.problems.add(
                key, f"got {show(node.data)}; allowed: a mapping such as {{name: main, budget: 80%}}", node.line
            )
            return None
        leaves = Leaves(node, key, self.problems, _BOOLEANS)
        given: dict[str, Any] = {}
        for name in leaves.items:
            path = leaves.path(name)
            if name not in _PHASE:
                self.problems.add(path, f"is no field of a phase; {_hint(name, list(_PHASE))}", self.root.line_of(path))
                continue
            value = leaves.items[name].data if name == "name" else leaves.value(name)
            if value is MANGLED:
                continue
            try:
                given[name] = _PHASE[name].coerce(value, name)
            except DeclarationError as why:
                self.note(why, key)
        own = _own(base, given.get("name", "main")) if base is not None else {}
        try:
            return Phase(**(own | given))
        except DeclarationError as why:
            self.note(why, key)
            return None

    # -- arms ----------------------------------------------------------------------------------------------

    def arms(self, node: Node) -> dict[str, Regime]:
        """Return every arm that could be built, in the order of the file."""
        made: dict[str, Regime | None] = {}
        for name in node.value:
            self._arm(node, name, made, ())
        return {name: arm for name in node.value if (arm := made[name]) is not None}

    def _arm(self, node: Node, name: str, made: dict[str, Regime | None], on_the_way: tuple[str, ...]) -> Regime | None:
        if name in made:
            return made[name]
        child, key = node.value[name], f"arms.{name}"
        base: Regime | None = None
        like = child.value.get("like") if isinstance(child.value, dict) else None
        made[name] = None
        if like is not None:
            base = self._like(node, name, like, made, (*on_the_way, name))
            if base is None:
                return None
        made[name] = self.regime(child, key, base)
        return made[name]

    def _like(
        self, node: Node, name: str, like: Node, made: dict[str, Regime | None], on_the_way: tuple[str, ...]
    ) -> Regime | None:
        key, other = f"arms.{name}.like", like.data
        if not isinstance(other, str) or other not in node.value:
            options = [arm for arm in node.value if arm != name]
            self.problems.add(key, f"got {show(other)}, which is no arm; {nearest(str(other), options)}", like.line)
            return None
        if other in on_the_way:
            circle = " -> ".join([*on_the_way[on_the_way.index(other) :], other])
            self.problems.add(key, f"got '{other}', which is derived from this arm itself ({circle})", like.line)
            return None
        return self._arm(node, other, made, on_the_way)


def _hint(name: str, options: list[str]) -> str:
    if any(letter in name for letter in "()='\"#"):
        return "it looks like a piece of notation that YAML split; write the whole value in single quotes"
    return field_hint(name, options)


def _given(phase: Phase) -> dict[str, Any]:
    """Fields of a completed phase that differ from what an empty phase would have."""
    plain = Phase(optimizer=phase.optimizer, batch_size=phase.batch_size).completed({})
    values = {name: getattr(phase, name) for name in _PHASE if name not in ("name", "budget")}
    kept = {name: value for name, value in values.items() if not fields.same(value, getattr(plain, name))}
    if phase.mixture is not None:
        kept.pop("sampler", None)
    return kept | {"optimizer": phase.optimizer, "batch_size": phase.batch_size}


def _shared(base: Regime) -> dict[str, Any]:
    """What all phases of `base` say alike: the defaults of a regime that brings phases of its own."""
    first, *rest = [_given(phase) for phase in base.phases]
    return {
        name: value for name, value in first.items() if all(name in p and fields.same(p[name], value) for p in rest)
    }


def _own(base: Regime, name: str) -> dict[str, Any]:
    """What the phase of the same name says in `base`, where `base` has several."""
    if len(base.phases) == 1:
        return {}
    return next(({**_given(phase), "budget": phase.budget} for phase in base.phases if phase.name == name), {})
