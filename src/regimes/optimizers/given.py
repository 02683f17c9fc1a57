"""The evaluate that an inner rule sees: one plain evaluation that has been made already."""

from __future__ import annotations

from typing import Any

from regimes.core.errors import DeclarationError
from regimes.core.kinds import Optimizer
from regimes.optimizers.asked import asks


class Given:
    """Answers the one plain evaluation that a rule makes, and gives it randomness of its own.

    Parameters
    ----------
    evaluate : callable
        What the outer rule was given.
    evaluation : Evaluation or None
        The answer, with gradients of the inner rule's parameters; None while the rule is asked what it asks for.
    key : str
        Path of the inner rule in the outer one, for messages.
    stream : str
        Put before the names of random streams, so that two inner rules draw different numbers.

    Raises
    ------
    DeclarationError
        If the rule asks for more.
    """

    def __init__(self, evaluate: Any, evaluation: Any, key: str, stream: str = "") -> None:
        self._evaluate, self.evaluation, self._key, self._stream = evaluate, evaluation, key, stream

    def __call__(
        self,
        grad: bool = True,
        final: bool = True,
        capture: Any = (),
        examples: bool = False,
        reduce: bool = True,
        training: bool = True,
        vectors: Any = (),
        sampled: bool = False,
    ) -> Any:
        """Return the evaluation."""
        wanted = [*capture, *["hessian_products"] * bool(vectors), *["sampled_gradients"] * sampled]
        there = not wanted or all(name in self.evaluation.captured for name in wanted)
        if not (grad and final and reduce and training and there) or examples:
            raise DeclarationError(
                "the rule asks for more than the gradient; an inner rule is given one plain evaluation", self._key
            )
        return self.evaluation

    @property
    def compiled(self) -> bool:
        """Whether the phase declares that a step is compiled."""
        return bool(self._evaluate.compiled)

    def rng(self, name: str) -> Any:
        """Return a torch generator at the start of the inner rule's stream `name`."""
        return self._evaluate.rng(f"{self._stream}{name}")

    def log(self, name: str, value: float) -> None:
        """Write a number of the inner rule's own into the step's record."""
        self._evaluate.log(f"{self._stream}{name}", value)


def refuse_several(rule: Optimizer, where: str, key: str) -> None:
    """Refuse a rule that does not make one plain evaluation, where it would stand inside another.

    Raises
    ------
    DeclarationError
        If it does not; a rule around others is told to stand outside, any other to stand alone.

    Examples
    --------
    >>> from regimes.optimizers import SAM, SGD
    >>> refuse_several(SGD(lr=0.1), "Groups", "groups.0.rule")
    >>> refuse_several(SAM(SGD(lr=0.1)), "Groups", "groups.0.rule")
    Traceback (most recent call last):
    ...
    regimes.core.errors.DeclarationError: groups.0.rule: SAM evaluates more than once, or asks for more than the gradient, \
and cannot stand inside Groups; write SAM(Groups(...))
    """
    if rule.single_evaluation:
        return
    name = type(rule).__name__
    if asks(rule):
        raise DeclarationError(
            f"{name} asks for more than the gradient, and cannot stand inside {where}; allowed: a rule that needs the "
            "gradient alone, for example AdamW()",
            key,
        )
    around = any(isinstance(part, Optimizer) for _, part in rule.parts())
    hint = f"write {name}({where}(...))" if around else f"allowed: {name} alone, as the optimizer"
    raise DeclarationError(
        f"{name} evaluates more than once, or asks for more than the gradient, and cannot stand inside {where}; {hint}",
        key,
    )
