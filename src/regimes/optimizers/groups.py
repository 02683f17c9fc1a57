"""Parameter groups: an ordered list of (pattern, rule), first match wins, nothing is left over."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import Component, fixed
from regimes.core.errors import DeclarationError, nearest, nearest_pattern
from regimes.core.kinds import Optimizer, State
from regimes.core.registry import register
from regimes.optimizers import asked as asking
from regimes.optimizers.given import Given, refuse_several
from regimes.optimizers.roles import roles_of as roles_of  # where the engine looks for it

#: Matches that are no name patterns: by the shape and role of a parameter.
PREDICATES: dict[str, Callable[[Tensor, str], bool]] = {
    "@matrices": lambda p, role: p.ndim >= 2 and not role,
    "@vectors": lambda p, role: p.ndim < 2,
    "@embeddings": lambda p, role: "embedding" in role,
    "@head": lambda p, role: "head" in role,
    "@norms": lambda p, role: "norm" in role,
    "@layer_norms": lambda p, role: role == "layer norm",
}


class Owned(dict[str, Tensor]):
    """The parameters that a group owns, by name, with the roles that groups inside it may match."""

    roles: Mapping[str, str] = {}


@register
class Group(Component):
    """One entry of Groups.

    Parameters
    ----------
    match : str
        Alternatives separated by ``|``: patterns of parameter names (``*.bias``), @matrices (two or more
        dimensions and no role: hidden layers), @vectors (fewer than two), @embeddings, @head, @norms (of any kind),
        @layer_norms (nn.LayerNorm alone).
    rule : Optimizer
        What updates the parameters that match and that no earlier group took.

    Raises
    ------
    DeclarationError
        If an alternative begins with @ and is none of these.

    Examples
    --------
    >>> from regimes.optimizers import SGD
    >>> Group("@vectors|@embeddings|*.scale", SGD(lr=0.1))
    Group('@vectors|@embeddings|*.scale', rule=SGD(lr=0.1))
    """

    match: str = fixed()
    rule: Optimizer = fixed()

    kind = "group"

    def validate(self) -> None:
        """Refuse an unknown predicate."""
        for alternative in self.alternatives():
            if alternative.startswith("@") and alternative not in PREDICATES:
                raise DeclarationError(f"got '{alternative}'; {nearest(alternative, PREDICATES)}", "match")

    def alternatives(self) -> list[str]:
        """The patterns and predicates of `match`."""
        return [part.strip() for part in self.match.split("|")]

    def fits(self, name: str, p: Tensor, roles: Mapping[str, str]) -> bool:
        """Whether a parameter matches."""
        return any(
            PREDICATES[part](p, roles.get(name, "")) if part.startswith("@") else fnmatch.fnmatchcase(name, part)
            for part in self.alternatives()
        )


@register
class Groups(Optimizer):
    """An ordered list of groups; the first that matches owns a parameter.

    Presets are in `regimes.groups`: ``no_decay``, ``muon``, ``layerwise``, ``mup``, and the printed table.

    Parameters
    ----------
    groups : tuple of Group
        In order. Rules must evaluate exactly once: SAM and MeZO stand around Groups.

    Raises
    ------
    DeclarationError
        If a rule inside evaluates more than once; on meeting a model, if a group owns nothing or a trainable
        parameter is in no group.

    Examples
    --------
    >>> from regimes.optimizers import SGD, AdamW
    >>> Groups([Group("@vectors", AdamW(lr=1e-3, weight_decay=0)), Group("*", AdamW(lr=1e-3))])
    Groups([Group('@vectors', rule=AdamW(weight_decay=0.0)), Group('*', rule=AdamW())])
    """

    groups: tuple[Group, ...] = fixed()

    card = Card(
        title="Parameter groups with a rule each",
        axes=("rates",),
        source="torch's parameter groups; routing as in torchtitan",
        when="No decay on norms, Muon for matrices, rates by layer.",
    )

    def validate(self) -> None:
        """Refuse an empty list, and rules that do not evaluate exactly once."""
        if not self.groups:
            raise DeclarationError("got no group; allowed: one or more, for example [Group('*', AdamW())]", "groups")
        for index, group in enumerate(self.groups):
            if not asking.asks(group.rule):
                refuse_several(group.rule, "Groups", f"groups.{index}.rule")

    @property
    def single_evaluation(self) -> bool:  # type: ignore[override]
        """Whether no rule asks for more than the gradient."""
        return all(group.rule.single_evaluation for group in self.groups)

    def parts(self) -> Iterator[tuple[str, Optimizer]]:
        """The rules, by place."""
        for index, group in enumerate(self.groups):
            yield str(index), group.rule

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Each rule's state for the parameters it owns, and the names of these."""
        owned = self.assign(parameters, getattr(parameters, "roles", {}))
        state: State = {str(i): group.rule.init(own) for i, (group, own) in enumerate(zip(self.groups, owned))}
        return state | {"owned": [list(own) for own in owned]}

    def assign(self, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> list[Owned]:
        """Return the parameters that each group owns.

        Parameters
        ----------
        parameters : mapping of str to Tensor
        roles : mapping of str to str
            As `roles_of(model)` gives them.
        """
        owned = [Owned() for _ in self.groups]
        for own in owned:
            own.roles = roles
        for name, p in parameters.items():
            index = next((i for i, group in enumerate(self.groups) if group.fits(name, p, roles)), None)
            if index is None:
                raise DeclarationError(
                    f"parameter '{name}' ({tuple(p.shape)}) is in no group; end with Group('*', ...), or leave it "
                    "out of `trainable`",
                    "groups",
                )
            owned[index][name] = p
        for index, (group, own) in enumerate(zip(self.groups, owned)):
            if not own:
                raise DeclarationError(self._owns_nothing(group, parameters, roles), f"groups.{index}.match")
        return owned

    @staticmethod
    def _owns_nothing(group: Group, parameters: Mapping[str, Tensor], roles: Mapping[str, str]) -> str:
        got = f"got '{group.match}', which owns no parameter"
        if any(group.fits(name, p, roles) for name, p in parameters.items()):
            return f"{got}: earlier groups took all that match"
        return f"{got}: nothing matches; {nearest_pattern(group.match, parameters)}"

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Evaluate once; every rule sees its own parameters and their gradients."""
        mine = [{name: parameters[name] for name in names} for names in state["owned"]]
        givens = [Given(evaluate, None, f"groups.{i}.rule", f"group {i} ") for i in range(len(self.groups))]
        asked = [self.groups[i].rule.asks(state[str(i)], mine[i], given) for i, given in enumerate(givens)]
        evaluation = evaluate(**asking.together(asked, state["owned"], parameters))
        place = {name: number for number, name in enumerate(parameters)}
        for index, (group, given) in enumerate(zip(self.groups, givens)):
            given.evaluation = asking.own(evaluation, [place[name] for name in mine[index]], asked[index])
            state[str(index)] = group.rule.step(state[str(index)], mine[index], given)
        return state

    def evaluation_weights(self, state: State, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Each rule's own, put together in parameter order."""
        found: dict[str, Tensor] = {}
        for index, group in enumerate(self.groups):
            mine = {name: parameters[name] for name in state["owned"][index]}
            found |= group.rule.evaluation_weights(state[str(index)], mine)
        return {name: found[name] for name in parameters}

    def shared_evaluation_weights(self) -> bool:
        """Whether every rule evaluates at the parameters themselves."""
        return all(group.rule.shared_evaluation_weights() for group in self.groups)
