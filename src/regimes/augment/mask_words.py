"""Whole words of a text are masked, to be told from the rest."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Augment, Knob, State
from regimes.core.registry import register

#: Target that our losses of tokens count as nothing.
IGNORE = -100


def _study(baseline: str) -> dict[str, Any]:
    """Ratios compared on held-out text that is masked at 15%."""
    return {
        "workload": {"name": "masked_lm", "length": 48},
        "compare": {
            "baseline": "other",
            "metric": "loss",
            "better": "lower",
            "margin": 0.01,
            "seeds": 8,
            "trials": 4,
        },
        "tune": {"*.lr.peak": "times(1/4, 4)"},
        "arms": {
            "other": {
                "optimizer": "AdamW(lr=Cosine(2e-3, warmup='5%'))",
                "batch_size": 16,
                "budget": "300 steps",
                "augment": [baseline],
            },
            "falling": {"like": "other", "augment": ["MaskWords(Linear(0.3, 0.15))"]},
        },
    }


@register
class MaskWords(Augment):
    r"""Mask whole words of every window, in random order, until a share `ratio` of its bytes is masked.

    Words are maximal runs of `letters`: identifiers, where the text is source code. With the lengths l_1, l_2, ... of
    the words of a window of L bytes in random order, and u uniform in [0, 1), the j-th is masked where

    .. math:: l_1 + \dots + l_{j-1} + u\, l_j < r L

    so that a word is masked whole or not at all, the masked share of a window is within one word's length of r, and its
    mean is r exactly (all words, where they are less than that share). Masked bytes become `mask`; they alone are
    targets, all others are -100, which losses of tokens leave out.

    Parameters
    ----------
    ratio : knob
        r in (0, 1]. Default 0.15 (BERT's); `Linear(0.3, 0.15)` falls as the paper's after its warm-up.
    mask : int
        The token that stands for a masked byte. Default 0, which no text holds.
    letters : str
        What words are made of, as it stands between the brackets of a character class of `re`, bytes being Latin-1
        characters. Default letters, digits, the underscore, and all bytes of other alphabets in UTF-8.

    Raises
    ------
    DeclarationError
        If a batch is no (tokens, ...) with bytes of shape (n, length), or `letters` is no character class.

    Notes
    -----
    The part of the batch after the tokens is replaced: of (tokens, next tokens) only the tokens are read. A step in which
    nothing is masked, because there is no word or one window whose first word is much longer than r L, is skipped. The
    ``tokens`` of a run count masked ones.

    References
    ----------
    Z. Zhao, N. Wang, X. Fu and Y. Cheng, Chinese ModernBERT with Whole-Word Masking, 2025, arXiv:2510.12285; Z. Ankner,
    N. Saphra, D. Blalock, J. Frankle and M. L. Leavitt, Dynamic Masking Rate Schedules for MLM Pretraining, EACL 2024,
    arXiv:2305.15096 (a ratio that falls from 30% to 15%).

    Examples
    --------
    >>> tokens = torch.tensor([list(b"def add(left, right): return left + right")])
    >>> masked, targets = MaskWords(0.3, mask=ord("?")).apply({}, (tokens, tokens), torch.Generator().manual_seed(0))
    >>> bytes(masked[0].tolist()).decode()
    'def ???(left, ?????): return left + ?????'
    >>> bytes(target for target in targets[0].tolist() if target >= 0).decode()
    'addrightright'
    """

    ratio: Knob = knob(0.15, above=0, high=1)
    mask: int = fixed(0, low=0)
    letters: str = fixed("0-9A-Z_a-z\x80-\xff")

    card = Card(
        title="Whole words masked, to be predicted from both sides",
        axes=("distribution", "phases"),
        source="Zhao et al. 2025, Chinese ModernBERT, arXiv:2510.12285; Ankner et al. 2024, arXiv:2305.15096",
        when="Masked language models: encoders.",
        cost="two sorts of the batch's tokens a step",
        rows=("chinese-modernbert",),
        defaults={
            "ratio": "0.15, BERT's (Devlin et al. 2019); the paper's falls from 0.3 to it",
            "mask": "0, the byte that no text holds",
            "letters": "identifiers of source code",
        },
        deviations=(
            "Every masked byte becomes `mask`; BERT leaves one word in ten as it was and replaces one in ten by another.",
            "Words are bytes between separators; the paper's are those of a Chinese word segmenter.",
            "The paper's ratio first rises from 15% to 30% while the rate warms up (so a summary of it says): "
            "Linear(0.15, 0.3).then(Linear(0.3, 0.15), '5%').",
        ),
        claims=(
            Claim(
                "A ratio that falls from 30% to 15% ends at a lower held-out loss, at 15%, than one that rises from 15% "
                "to 30%.",
                _study("MaskWords(Linear(0.15, 0.3))"),
                paper_scale="1.2T tokens of Chinese, a 28-layer encoder (no such comparison known to us); Ankner et al.: "
                "BERT-base and BERT-large",
            ),
            Claim(
                "So it does than a constant 15%.",
                _study("MaskWords(0.15)"),
                paper_scale="Ankner et al.: BERT-base and BERT-large on C4, by GLUE",
            ),
            Claim(
                "So it does than a constant 30%.",
                _study("MaskWords(0.3)"),
                paper_scale="Ankner et al.: BERT-base and BERT-large on C4, by GLUE",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[MaskWords]:
        """Short words of small token numbers."""
        return [cls(0.4, letters="\x01-\x05"), cls(0.8, mask=6, letters="\x00-\x03")]

    def validate(self) -> None:
        """Refuse what is no character class."""
        _table(self.letters)

    def apply(self, state: State, batch: Any, generator: torch.Generator) -> Any:
        """Return (masked tokens, targets)."""
        tokens = _bytes_of(batch)
        table = _table(self.letters).to(tokens.device)
        chosen = chosen_words(table[tokens], self.ratio, generator)
        masked, targets = tokens.masked_fill(chosen, self.mask), tokens.masked_fill(~chosen, IGNORE)
        return type(batch)((masked, targets))


def chosen_words(letter: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Return which letters are masked: whole words, about a share `ratio` of every row.

    Parameters
    ----------
    letter : Tensor of bool, shape (n, length)
        Where the letters of words are.
    ratio : float
        r.
    generator : torch.Generator
        On the device of `letter`.

    Returns
    -------
    Tensor of bool, shape (n, length)

    Examples
    --------
    >>> letter = torch.tensor([[1, 1, 0, 1, 1, 1, 0, 1, 1, 0]], dtype=torch.bool)
    >>> chosen_words(letter, 1.0, torch.Generator().manual_seed(0)).equal(letter)
    True
    """
    n, length = letter.shape
    place = torch.arange(length, device=letter.device)
    before, after = functional.pad(letter[:, :-1], (1, 0)), functional.pad(letter[:, 1:], (0, 1))
    first = torch.where(letter & ~before, place, 0).cummax(1).values
    last = torch.where(letter & ~after, place, length).flip(1).cummin(1).values.flip(1)
    drawn = torch.rand(n, length + 1, generator=generator, device=letter.device)
    # The letters of a word share what was drawn at its first one; sorted by it, stably, words stay whole.
    order = torch.where(letter, drawn.gather(1, first), 2.0).argsort(dim=1, stable=True)
    shorter = order.argsort(dim=1).gather(1, first)  # letters of the words that come before
    return letter & (shorter + drawn[:, length:] * (last - first + 1) < ratio * length)


def _bytes_of(batch: Any) -> Tensor:
    """The tokens of a batch."""
    tokens = batch[0] if isinstance(batch, tuple | list) and batch else None
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.is_floating_point():
        raise DeclarationError(
            f"got {show(batch)}; allowed: a batch (tokens, ...) whose tokens are bytes of shape (n, length), as those of "
            "TextWindows",
            "augment",
        )
    if tokens.max() > 255:
        raise DeclarationError(f"got token {tokens.max():d}; allowed: bytes, in which words can be found", "augment")
    return tokens


@functools.lru_cache(maxsize=16)
def _table(letters: str) -> Tensor:
    """Which of the 256 bytes are letters."""
    try:
        pattern = re.compile(f"[{letters}]")
    except re.error as why:
        raise DeclarationError(
            f"got {letters!r}, which is no character class ({why}); allowed: for example 'A-Za-z_'", "letters"
        ) from None
    return torch.tensor([pattern.fullmatch(chr(byte)) is not None for byte in range(256)])
