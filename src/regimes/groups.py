"""Presets of parameter groups, and their table.

Each preset is a function that returns `Groups`, which is printed, edited by path and hashed like any other
declaration: what a preset does is what it prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from regimes.core import fields
from regimes.core.errors import DeclarationError, show
from regimes.core.fields import Spec
from regimes.core.kinds import Optimizer
from regimes.core.registry import REGISTRY
from regimes.optimizers.groups import Group, Groups, roles_of
from regimes.scaling.mup import MuPRow, MuPTable, mup, mup_table

__all__ = [
    "Group",
    "GroupRow",
    "Groups",
    "GroupsTable",
    "MuPRow",
    "MuPTable",
    "groups_table",
    "layerwise",
    "muon",
    "mup",
    "mup_table",
    "no_decay",
]

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def no_decay(rule: Optimizer) -> Groups:
    """Return groups in which vectors (biases, scales), norms and embeddings are not decayed.

    A weight that serves as embedding and head counts as an embedding.

    Parameters
    ----------
    rule : Optimizer
        With a ``weight_decay``; all else is the same in both groups.

    Raises
    ------
    DeclarationError
        If the rule has no ``weight_decay``.

    Examples
    --------
    >>> from regimes.optimizers import AdamW
    >>> no_decay(AdamW(lr=3e-4, weight_decay=0.1))  # doctest: +NORMALIZE_WHITESPACE
    Groups([Group('@vectors|@norms|@embeddings', rule=AdamW(lr=0.0003, weight_decay=0.0)),
            Group('*', rule=AdamW(lr=0.0003, weight_decay=0.1))])
    """
    rule = fields.coerce(rule, Optimizer, Spec(), "rule")
    if rule.open_field is None:  # the options of a class by name are checked by the class
        _need(rule, "weight_decay", "no_decay")
    return Groups((Group("@vectors|@norms|@embeddings", rule.replace("weight_decay", 0.0)), Group("*", rule)))


def muon(rule: Optimizer, rest: Optimizer) -> Groups:
    """Return groups that give the matrices of hidden layers to one rule and embeddings, head and vectors to another.

    Parameters
    ----------
    rule : Optimizer
        For what has two or more dimensions and is neither embedding, norm nor head: Muon(...).
    rest : Optimizer
        For everything else; it may be Groups itself, ``rest=no_decay(AdamW(...))``.

    References
    ----------
    K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.

    Examples
    --------
    >>> from regimes.optimizers import AdamW, Muon
    >>> muon(Muon(lr=0.02), rest=AdamW(lr=3e-4))
    Groups([Group('@matrices', rule=Muon(lr=0.02)), Group('*', rule=AdamW(lr=0.0003))])
    """
    return Groups((Group("@matrices", rule), Group("*", rest)))


def layerwise(rule: Optimizer, decay: float, layers: str | Sequence[str]) -> Groups:
    """Return groups whose learning rates fall from the top layer down, each by the factor `decay`.

    The layer at depth d from the top learns at lr * decay^d, a product, so a schedule keeps its shape.

    Parameters
    ----------
    rule : Optimizer
        With an ``lr``.
    decay : float
        In (0, 1]. 0.8 is usual for fine-tuning (Clark et al. 2020: 0.8 for large models, 0.9 for small ones).
    layers : str or sequence of str
        Matches from the bottom to the top, as in `Group`; ``{0..11}`` stands for a layer each. What no layer
        matches is refused on meeting the model; end with ``"*"`` to leave it at the top.

    Raises
    ------
    DeclarationError
        If `decay` is out of range, there is no layer, or the rule has no ``lr``.

    References
    ----------
    J. Howard and S. Ruder, Universal Language Model Fine-tuning, ACL 2018, arXiv:1801.06146 (discriminative
    rates); K. Clark et al., ELECTRA, ICLR 2020, arXiv:2003.10555 (layerwise decay).

    Examples
    --------
    >>> from regimes.optimizers import AdamW
    >>> from regimes.schedules import Cosine
    >>> rule, layers = AdamW(lr=Cosine(1e-3)), ["@embeddings", "blocks.{0..1}.*", "*"]
    >>> layerwise(rule, 0.5, layers)  # doctest: +NORMALIZE_WHITESPACE
    Groups([Group('@embeddings', rule=AdamW(lr=Cosine(0.001) * 0.125)),
            Group('blocks.0.*', rule=AdamW(lr=Cosine(0.001) * 0.25)),
            Group('blocks.1.*', rule=AdamW(lr=Cosine(0.001) * 0.5)),
            Group('*', rule=AdamW(lr=Cosine(0.001)))])
    """
    if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0.0 < decay <= 1.0:
        raise DeclarationError(f"got {show(decay)}; allowed: a number > 0 and <= 1", "decay")
    rule = fields.coerce(rule, Optimizer, Spec(), "rule")
    matches = list(_expanded([layers] if isinstance(layers, str) else layers))
    if not matches:
        raise DeclarationError("got no layer; allowed: matches from the bottom to the top", "layers")
    lr = _need(rule, "lr", "layerwise")
    groups = []
    for depth, match in zip(range(len(matches) - 1, -1, -1), matches):
        groups.append(Group(match, rule.replace("lr", lr * decay**depth) if depth else rule))
    return Groups(tuple(groups))


for _preset in (no_decay, muon, layerwise):  # those that need no model may be written in files
    REGISTRY.add(f"groups.{_preset.__name__}", _preset, __name__)


def _expanded(layers: Iterable[str]) -> Iterator[str]:
    for layer in layers:
        found = _RANGE.search(layer)
        if found is None:
            yield layer
            continue
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise DeclarationError(f"got '{layer}'; allowed: a range from the bottom to the top", "layers")
        yield from _expanded(layer.replace(found[0], str(number)) for number in range(first, last + 1))


def _need(rule: Optimizer, name: str, preset: str) -> Any:
    """Return the rule's field, or say why the preset cannot change it."""
    held = dict(rule.children())
    if name in held:
        return held[name]
    inside = any(name in dict(part.children()) for _, part in rule.parts())
    hint = f"; call {preset} on the rule inside that has one" if inside else ""
    raise DeclarationError(f"got {show(rule)}, which has no {name}{hint}", "rule")


# -- the table -----------------------------------------------------------------------------------------------


class GroupRow(NamedTuple):
    """What one group owns.

    Parameters
    ----------
    pattern : str
        Its match; that of a group inside another follows the outer one's.
    rule : str
        The printed rule.
    tensors, parameters : int
        How many tensors it owns, and how many numbers these hold; tied weights count once.
    examples : tuple of str
        The first two names.
    """

    pattern: str
    rule: str
    tensors: int
    parameters: int
    examples: tuple[str, ...]


class GroupsTable(list[GroupRow]):
    """Rows of groups, printed as a table."""

    def __str__(self) -> str:
        heads = ("pattern", "tensors", "parameters", "examples", "rule")
        lines = [
            (row.pattern, str(row.tensors), f"{row.parameters:,}", ", ".join(row.examples), row.rule) for row in self
        ]
        widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(4)]
        shown = []
        for pattern, tensors, parameters, examples, rule in [heads, *lines]:
            left = f"{pattern:<{widths[0]}}  {tensors:>{widths[1]}}  {parameters:>{widths[2]}}"
            shown.append(f"{left}  {examples:<{widths[3]}}  {rule}")
        return "\n".join(shown)


def groups_table(groups: Optimizer, model: nn.Module) -> GroupsTable:
    """Return who updates what, one row per group.

    Parameters
    ----------
    groups : Optimizer
        Groups, a rule around Groups, or a plain rule (one row).
    model : Module
        Its parameters that require gradients.

    Raises
    ------
    DeclarationError
        If a group owns nothing, or a parameter is in no group.

    Examples
    --------
    >>> from regimes.optimizers import AdamW, Muon
    >>> net = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10, bias=False))
    >>> print(groups_table(muon(Muon(), rest=AdamW()), net))
    pattern    tensors  parameters  examples          rule
    @matrices        1          16  1.weight          Muon()
    *                3          84  0.weight, 1.bias  AdamW()
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return GroupsTable(_rows(groups, trained, roles_of(model), ""))


def _rows(rule: Optimizer, owned: Mapping[str, Tensor], roles: Mapping[str, str], pattern: str) -> Iterator[GroupRow]:
    inner = next((part for _, part in rule.parts() if isinstance(part, Optimizer)), None)
    if isinstance(rule, Groups):
        for group, own in zip(rule.groups, rule.assign(owned, roles)):
            yield from _rows(group.rule, own, roles, f"{pattern} > {group.match}" if pattern else group.match)
    elif inner is not None and _holds_groups(inner):
        yield from _rows(inner, owned, roles, pattern)
    else:
        numbers = sum(p.numel() for p in owned.values())
        yield GroupRow(pattern or "*", fields.printed(rule), len(owned), numbers, tuple(owned)[:2])


def _holds_groups(rule: Optimizer) -> bool:
    """Whether a rule is, or has inside, Groups: what is around them owns all that they own."""
    parts = (part for _, part in rule.parts() if isinstance(part, Optimizer))
    return isinstance(rule, Groups) or any(_holds_groups(part) for part in parts)
