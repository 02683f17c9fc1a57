"""Transforms in a script: of the final gradient, and of the model on entering a phase."""

from __future__ import annotations

from typing import Any

from regimes.ejection import names
from regimes.ejection.text import Lines, bracketed, call
from regimes.grad_transforms import ClipNorm, ClipValue
from regimes.model_transforms import Freeze, Unfreeze


def transform(own: Any, text: Lines, one: Any, place: int) -> None:
    """Write a transform of the gradient in ``p.grad``."""
    if isinstance(one, ClipNorm):
        text.add(f"torch.nn.utils.clip_grad_norm_(parameters, {one.max_norm!r})")
    elif isinstance(one, ClipValue):
        text.add(f"torch.nn.utils.clip_grad_value_(parameters, {one.clip_value!r})")
    else:
        own.uses_streams = True
        begin = own.facts.begin.step
        done = f"step - {begin - 1}" if begin > 1 else "step" if begin == 1 else "1 + step"
        std = (
            f"{one.std!r}" if one.decay == 0.0 else f"{bracketed(one.std)} * ({done}) ** (-{bracketed(one.decay)} / 2)"
        )
        text.add(f'generator = torch.Generator().manual_seed(streams.seed32("rule", "transform {place} noise", step))')
        with text.block("for p in parameters:"):
            text.add(f"p.grad.add_(torch.randn(p.shape, generator=generator), alpha={std})")


def enter(own: Any, text: Lines, one: Any, place: int) -> None:
    """Write what happens to the model on entering the phase."""
    if isinstance(one, Freeze | Unfreeze):
        wanted = isinstance(one, Unfreeze)
        condition = names.any_pattern(one.patterns)
        if not condition:
            text.add(f"model.requires_grad_({wanted})")
            return
        model = own.facts.model
        tied = len(list(model.named_parameters())) < len(list(model.named_parameters(remove_duplicate=False)))
        named = "model.named_parameters(remove_duplicate=False)" if tied else "model.named_parameters()"
        with text.block(f"for name, p in {named}:"), text.block(f"if {condition}:"):
            text.add(f"p.requires_grad_({wanted})")
        return
    own.uses_streams = True
    name = own.facts.phase.name
    text.add(f'{call(one)}.fill(model, model, iter(()), Streams(SEED, "{name}", "on_entry", {place}))')
