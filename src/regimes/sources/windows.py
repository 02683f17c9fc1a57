"""Text as windows of tokens: example i is tokens [i L, i L + L], inputs and targets shifted by one."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regimes.core.errors import DeclarationError
from regimes.core.source import Source


class TextWindows(Source):
    """Non-overlapping windows of a token stream.

    A plan's column ``length`` shortens every window of the batch, ``offset`` says where in the window the
    shorter piece begins.

    Parameters
    ----------
    tokens : Tensor, shape (n,)
        Token numbers; bytes as uint8 are kept so and widened per batch.
    length : int
        Targets per window.

    Raises
    ------
    DeclarationError
        If the text is shorter than one window.

    Examples
    --------
    >>> source = TextWindows(torch.arange(9), length=4)
    >>> source.fetch(np.array([1]), {})
    (tensor([[4, 5, 6, 7]]), tensor([[5, 6, 7, 8]]))
    >>> source.fetch(np.array([1]), {"length": 2, "offset": np.array([2])})
    (tensor([[6, 7]]), tensor([[7, 8]]))
    """

    reads = ("pass", "length", "offset")

    rowwise = True

    def __init__(self, tokens: Tensor, length: int) -> None:
        if len(tokens) <= length:
            raise DeclarationError(
                f"got {len(tokens)} tokens for windows of {length}; allowed: at least one more", "train"
            )
        self.length, self.example_tokens = length, length
        self._offsets = np.arange(length + 1)
        self._lie(tokens.contiguous(), np.arange((len(tokens) - 1) // length) * length)

    def _lie(self, tokens: Tensor, starts: np.ndarray) -> None:
        """Say where the windows lie."""
        self.tokens, self._starts = tokens, starts
        self._windows = None
        if tokens.device.type == "cpu":
            self._windows = np.lib.stride_tricks.sliding_window_view(tokens.numpy(), self.length + 1)

    @classmethod
    def several(cls, texts: Mapping[str, Tensor], length: int) -> dict[str, TextWindows]:
        """Return sources by name that lie in one tensor: a batch from several of them is read in one go.

        Parameters
        ----------
        texts : mapping of str to Tensor
            Token numbers of one type, each of shape (n,).
        length : int
            Targets per window.

        Examples
        --------
        >>> code, prose = TextWindows.several({"code": torch.arange(9), "prose": torch.arange(20, 29)}, 4).values()
        >>> code.beside([prose]).fetch(np.array([1, 2]), {})[0].tolist()
        [[4, 5, 6, 7], [20, 21, 22, 23]]
        """
        pieces = torch.cat(list(texts.values())).split([len(text) for text in texts.values()])
        return {name: cls(piece, length) for name, piece in zip(texts, pieces)}

    def __len__(self) -> int:
        return len(self._starts)

    def fetch(self, indices: np.ndarray, columns: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets), each of shape (n, length)."""
        length, starts = self.length, self._starts[indices]
        if not columns and self._windows is not None:  # a tenth of what indexing by torch costs for so few numbers
            rows = self._windows[starts]
            return torch.from_numpy(rows[:, :-1].astype(np.int64)), torch.from_numpy(rows[:, 1:].astype(np.int64))
        length = min(int(columns.get("length", length)), length)
        starts = starts + np.asarray(columns.get("offset", 0))
        places = starts[:, None] + self._offsets[: length + 1]
        found = self.tokens[torch.from_numpy(places).to(self.tokens.device)].long()
        return found[:, :-1], found[:, 1:]

    def beside(self, others: Sequence[Source]) -> Source | None:
        """One text, where all are pieces of one tensor: windows of the same length, of tokens of the same type."""
        texts = [self, *(other for other in others if isinstance(other, TextWindows))]
        memory = self.tokens.untyped_storage()
        first = (self.length, self.tokens.dtype, memory.data_ptr())
        if len(texts) <= len(others) or any(
            (text.length, text.tokens.dtype, text.tokens.untyped_storage().data_ptr()) != first for text in texts
        ):
            return None
        starts = np.concatenate([text._starts + text.tokens.storage_offset() for text in texts])
        whole = copy.copy(self)
        whole._lie(self.tokens.new_empty(0).set_(memory), starts)
        return whole

    def column(self, name: str) -> Any:
        """Every window has the declared ``length``."""
        return torch.tensor(self.length).expand(len(self)) if name == "length" else None

    def fingerprint(self) -> str:
        """SHA-256 over the tokens and the window length."""
        digest = hashlib.sha256(f"{self.length}{self.tokens.dtype}".encode())
        digest.update(self.tokens.cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
