"""Cards: what a published method says, in our words; claims: a small study that re-tests it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Claim:
    """A statement of a paper with the small study that re-tests it.

    Parameters
    ----------
    text : str
        What is claimed, in our words.
    study : dict
        The study as it would stand in a YAML file; with `measure` only ``seeds``, ``margin`` and ``scale``, a sentence.
    paper_scale : str
        At what size the paper showed it.
    says : "better" or "not worse"
        What is claimed of the study's arm: that it is better than the baseline, or not worse by a margin.
    measure : str
        For what is no comparison of two regimes: ``package.module:function``, which returns for a seed (value, baseline),
        higher being better.
    """

    text: str
    study: dict[str, Any]
    paper_scale: str = ""
    says: Literal["better", "not worse"] = "better"
    measure: str = ""


@dataclass(frozen=True)
class Card:
    """What a method is, where it comes from, and what we changed.

    Parameters
    ----------
    title : str
        One line.
    axes : tuple of str
        Of rates, order, distribution, phases, regime.
    source : str
        Author, year, title, identifier.
    when : str
        When to use it.
    cost : str
        What it costs over the plain step.
    shelf : "core" or "atlas"
        What most people want, or everything else.
    rows : tuple of str
        Rows of the catalogue that this component covers.
    defaults : dict of str to str
        Where each default comes from.
    deviations : tuple of str
        Where it departs from the paper, and why.
    claims : tuple of Claim
    """

    title: str
    axes: tuple[str, ...]
    source: str
    when: str = ""
    cost: str = "free"
    shelf: str = "core"
    rows: tuple[str, ...] = ()
    defaults: dict[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()


def described(card: Card) -> Callable[[F], F]:
    """Decorator: give a function, or a class that is no component, a card, by which `regimes show` and `regimes atlas` find it."""

    def give(function: F) -> F:
        function.card = card  # type: ignore[attr-defined]
        return function

    return give
