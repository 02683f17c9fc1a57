"""Randomness is addressed, not consumed: a stream is named by (seed, name, ...), never stored.

Two draws at the same address are equal, whatever was drawn before, on whichever process, after any resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator, Sequence

import numpy as np

Address = str | int


def digest128(seed: int, address: Sequence[Address]) -> bytes:
    """Return 16 bytes that name a stream: BLAKE2b over the seed and the typed parts of the address."""
    # Lengths are written before texts, so that no two addresses share a spelling.
    text = ";".join([f"i{seed}", *[f"i{p}" if isinstance(p, int) else f"s{len(p)}:{p}" for p in address]])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def seed32(seed: int, *address: Address) -> int:
    """Return 32 hashed bits for torch's CPU generators, which read no more of a seed than that.

    Examples
    --------
    >>> seed32(0, "forward", 7, 0) == seed32(0, "forward", 7, 0), seed32(0, "forward", 7, 1) < 2**32
    (True, True)
    """
    return int.from_bytes(digest128(seed, address)[:4], "little")


def philox(seed: int, *address: Address) -> np.random.Generator:
    """Return a fresh numpy generator at an address (counter-based Philox on a 128-bit hash).

    Examples
    --------
    >>> philox(0, "order", 1).integers(100, size=3).tolist() == philox(0, "order", 1).integers(100, size=3).tolist()
    True
    """
    key = int.from_bytes(digest128(seed, address), "little")
    return np.random.Generator(np.random.Philox(key=key))


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators of Python, numpy and torch start at `seed`; afterwards they are as before.

    Examples
    --------
    >>> with seeded(3):
    ...     first = random.random()
    >>> with seeded(3):
    ...     first == random.random()
    True
    """
    import torch

    python, theirs, ours = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(theirs)
        torch.set_rng_state(ours)


class Streams:
    """The addressed streams of one frame of one run.

    `rng` re-keys one shared generator in place (building a Philox costs 20 us, re-keying 2.4): use what it
    returns before asking for the next.

    Examples
    --------
    >>> s = Streams(3, "main"); a = s.rng("order", 5).random(); b = s.rng("order", 6).random()
    >>> a == s.rng("order", 5).random(), a == b, a == Streams(3, "main").rng("order", 5).random()
    (True, False, True)
    """

    def __init__(self, seed: int, *prefix: Address) -> None:
        self.seed, self.prefix = seed, prefix
        self._rng: np.random.Generator | None = None

    def within(self, *prefix: Address) -> Streams:
        """Return the streams below a longer prefix."""
        return Streams(self.seed, *self.prefix, *prefix)

    def rng(self, *address: Address) -> np.random.Generator:
        """Return the shared generator, set to the start of the stream at `address`."""
        if self._rng is None:  # built on first use: streams below a prefix are often made for their seed alone
            self._rng = np.random.Generator(np.random.Philox(key=0))
            self._fresh = self._rng.bit_generator.state
        state = self._fresh
        state["state"]["key"] = np.frombuffer(digest128(self.seed, (*self.prefix, *address)), dtype="<u8")
        self._rng.bit_generator.state = state
        return self._rng

    def seed32(self, *address: Address) -> int:
        """Return 32 hashed bits at `address`, for a torch generator."""
        return seed32(self.seed, *self.prefix, *address)

    def at_key(self, key: Sequence[Address]) -> np.random.Generator:
        """Return a fresh generator at an absolute address: what must outlive a seam carries its key."""
        return philox(self.seed, *key)
