"""Masked language modeling of source code: an encoder fills in the identifiers that were masked."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from regimes.augment import MaskWords
from regimes.core.errors import DeclarationError
from regimes.core.randomness import seed32
from regimes.core.unit_losses import UnitLosses
from regimes.engine.metrics import Accuracy
from regimes.engine.workload import Workload
from regimes.losses import NextToken
from regimes.sources.windows import TextWindows
from regimes.workloads import models
from regimes.workloads.corpus import load_corpus

#: What held-out text is judged at, whatever a regime trains at.
HELD_OUT_RATIO = 0.15


class MaskedToken(NextToken):
    """Negative log-likelihood of each masked token."""

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each token.

        Raises
        ------
        DeclarationError
            If nothing is masked: the targets are then the next tokens, which an encoder sees.
        """
        found = super().per_unit(output, target)
        if found.weights is None:
            raise DeclarationError(
                "got nothing, but masked_lm has to be told what to mask: augment=[MaskWords(0.15)]", "augment"
            )
        return found


def masked_lm(
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    length: int = 64,
    domains: tuple[str, ...] = ("code",),
    held_out: int = 16_000,
) -> Workload:
    """Return a small byte-level encoder on real text that every installation has.

    Training windows are plain text, which the regime masks: ``augment=[MaskWords(0.15)]``. Of held-out windows 15% are
    masked, the same words in every run.

    Parameters
    ----------
    width, layers, heads : int
        Of the encoder.
    length : int
        Bytes per window.
    domains : tuple of str
        Sources by name, as of ``char_lm``. Held-out files are whole files.
    held_out : int
        Bytes of each domain in val, and in test.
    """
    corpus = load_corpus(tuple(domains))
    model = functools.partial(models.TinyGPT, width=width, layers=layers, heads=heads, context=length, causal=False)
    return Workload(
        model=model,
        train=TextWindows.several({name: corpus[name].train for name in domains}, length),
        val={name: masked(corpus[name].val[:held_out], length, "val", name) for name in domains},
        test={name: masked(corpus[name].test[:held_out], length, "test", name) for name in domains},
        loss=MaskedToken(),
        metrics={"acc": Accuracy(dim=-1)},
        name="masked_lm",
    )


def masked(text: Tensor, length: int, *address: str) -> tuple[Tensor, Tensor]:
    """Return (masked windows, targets) of a text, the masks drawn at an address.

    Examples
    --------
    >>> inputs, targets = masked(torch.tensor(list(b"for name in names:" * 40)), 60, "doctest")
    >>> inputs.shape, round((targets >= 0).float().mean().item(), 2)
    (torch.Size([12, 60]), 0.15)
    """
    windows = text[: len(text) // length * length].view(-1, length).long()
    generator = torch.Generator().manual_seed(seed32(0, "masked_lm", *address))
    inputs, targets = MaskWords(HELD_OUT_RATIO).apply({}, (windows, windows), generator)
    return inputs, targets
