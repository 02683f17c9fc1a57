"""A weighted mean of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Weights
from regimes.core.registry import register


@register
class Soup(Weights):
    r"""The mean of the weights of several runs that began at the same weights.

    .. math:: \theta = \sum_i \alpha_i \theta_i, \qquad \sum_i \alpha_i = 1

    Uniform by default; `regimes.study.soups` finds the ingredients of a greedy soup and the mixing weights of a
    learned one on validation data, and returns a Soup. Numbers that are not floating-point are the first's.

    Parameters
    ----------
    ingredients : tuple of Weights
    shares : tuple of float
        alpha, each at least 0, divided by their sum; empty: all equal.

    Raises
    ------
    DeclarationError
        If there is no ingredient, their numbers differ, no share is above 0, or names or shapes do not agree.

    References
    ----------
    M. Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time, ICML 2022, arXiv:2203.05482.

    Examples
    --------
    >>> from regimes.weights import FromRun
    >>> Soup([FromRun("runs/a"), FromRun("runs/b")], [1, 3]).normalized()
    (0.25, 0.75)
    """

    ingredients: tuple[Weights, ...] = fixed()
    shares: tuple[float, ...] = fixed((), low=0)

    card = Card(
        title="Mean of the weights of several runs",
        axes=("phases",),
        source="Wortsman et al. 2022, arXiv:2203.05482",
        when="Several fine-tunings from one start, of which one would be thrown away for another.",
        cost="what its ingredients have spent; nothing at inference",
        rows=("model-soups",),
        deviations=(
            "The learned soup has one mixing weight per ingredient for all layers and no temperature: the paper learns one, "
            "and offers weights per layer.",
            "Running statistics of batch norm are averaged as they are, not measured anew.",
        ),
        claims=(
            Claim(
                "The greedy soup of twelve fine-tunings from one start is right on test data no less often, by a point, than "
                "the best of them on validation data.",
                {"seeds": 8, "margin": 0.01, "scale": "digits_rotated, 12 fine-tunings of 200 steps"},
                paper_scale="CLIP and ViT-G fine-tuned on ImageNet, 72 models",
                says="not worse",
                measure="regimes.claims.soups:greedy",
            ),
            Claim(
                "The uniform soup of networks that began apart is right less often than the best of them, by twenty points.",
                {"seeds": 8, "margin": 0.2, "scale": "digits_rotated, 12 trainings of 600 steps"},
                paper_scale="the paper's section on the loss between two models",
                measure="regimes.claims.soups:apart",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[Soup]:
        """Uniform, and with shares."""
        from regimes.weights.from_run import FromRun

        runs = FromRun("runs/a"), FromRun("runs/b", "raw")
        return [cls(runs), cls(runs, (1.0, 3.0))]

    def validate(self) -> None:
        """Refuse an empty soup."""
        if not self.ingredients:
            raise DeclarationError("got none; allowed: one or more", "ingredients")
        if self.shares and (len(self.shares) != len(self.ingredients) or not sum(self.shares)):
            raise DeclarationError(
                f"got {list(self.shares)} for {len(self.ingredients)} ingredients; allowed: one share for each, some above 0",
                "shares",
            )

    def normalized(self) -> tuple[float, ...]:
        """Return the shares, their sum being 1."""
        shares = self.shares or (1.0,) * len(self.ingredients)
        return tuple(share / sum(shares) for share in shares)

    def load(self) -> Mapping[str, Tensor]:
        """Return the mean by name, added in float64."""
        loaded = []
        for place, part in enumerate(self.ingredients):
            try:
                loaded.append(part.load())
            except DeclarationError as why:
                raise why.within(f"ingredients.{place}") from None
        return mixed(loaded, self.normalized())

    def digest(self) -> str:
        """Return a digest over the ingredients'."""
        return hashlib.sha256("".join(part.digest() for part in self.ingredients).encode()).hexdigest()[:16]


def mixed(states: list[Mapping[str, Tensor]], shares: tuple[float, ...]) -> dict[str, Tensor]:
    """Return the weighted sum of states of one model.

    Raises
    ------
    DeclarationError
        If names or shapes do not agree.

    Examples
    --------
    >>> import torch
    >>> mixed([{"w": torch.tensor([0.0, 2.0])}, {"w": torch.tensor([1.0, 0.0])}], (0.5, 0.5))
    {'w': tensor([0.5000, 1.0000])}
    """
    first = states[0]
    for place, state in enumerate(states):
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in first.items()}:
            differing = sorted(set(first) ^ set(state)) or [n for n in first if first[n].shape != state[n].shape]
            raise DeclarationError(
                f"got weights of another model: '{differing[0]}' differs; allowed: those of one model",
                f"ingredients.{place}",
            )
    made = {}
    for name, tensor in first.items():
        if not tensor.is_floating_point():
            made[name] = tensor.clone()
            continue
        total = sum(share * state[name].double() for share, state in zip(shares, states))
        made[name] = total.to(tensor.dtype)  # type: ignore[union-attr]
    return made
