"""Randomness is addressed, not consumed: a stream is named by (seed, name, ...), never stored.

Two draws at the same address are equal, whatever was drawn before, on whichever process, after any resume.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import random
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

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
    with kept():
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Set the global generators of Python, numpy and torch, those of devices in use too, to the start of `seed`."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def kept(torch_alone: bool = False) -> Iterator[None]:
    """Inside, the global generators may be used; afterwards they are as before.

    Parameters
    ----------
    torch_alone : bool
        Leave out Python's and numpy's, whose states cost 100 us.
    """
    import torch

    python, theirs = (None, None) if torch_alone else (random.getstate(), np.random.get_state())
    ours = torch.default_generator.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if python is not None and theirs is not None:
            random.setstate(python)
            np.random.set_state(theirs)
        torch.default_generator.set_state(ours)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def own_generator(*holders: object) -> str | None:
    """Return the name of an attribute of these, or of what they hold, that is a random generator of its own.

    No address reaches such a generator: after a resume it stands somewhere else.

    Examples
    --------
    >>> class Noisy:
    ...     def __init__(self): self.transforms = [Noisy.Jitter()]
    ...     class Jitter:
    ...         def __init__(self): self.rng = np.random.default_rng(0)
    >>> own_generator(Noisy()), own_generator([1, 2])
    ('rng', None)
    """
    import torch

    kinds = np.random.Generator, np.random.RandomState, random.Random, torch.Generator
    seen: set[int] = set()
    ahead: list[tuple[object, int]] = [(holder, 0) for holder in holders]
    while ahead:
        holder, depth = ahead.pop()
        if id(holder) in seen or depth > 4 or isinstance(holder, type | types.ModuleType):
            continue
        seen.add(id(holder))
        held = list(getattr(holder, "__dict__", {}).items())
        if isinstance(holder, list | tuple) and len(holder) <= 64:
            held += [("", item) for item in holder]
        for name, value in held:
            if isinstance(value, kinds):
                return name
            ahead.append((value, depth + 1))
    return None


class Marks:
    """Where Python's and numpy's global generators stand: equal before and after what draws from neither.

    Both are Mersenne twisters: a place in a block of 624 words, and the block, of which the word that lies beside the
    place stands for all.
    Where a look at them in memory does not agree with what they say of themselves, their whole states are compared
    (80 us instead of 1).

    Examples
    --------
    >>> look = Marks()
    >>> before = look(); _ = random.random(); before == look()
    False
    >>> before = look(); _ = np.random.rand(312); before == look()
    False
    >>> before = look(); before == look()
    True
    """

    def __init__(self) -> None:
        self._python, self._generator = _python_words(), _global_numpy()
        self._numpy = _numpy_words(self._generator)

    def __call__(self) -> tuple[object, ...]:
        """Return the marks of this moment."""
        python, theirs = self._python, self._numpy
        one = random.getstate() if python is None else python.value
        if theirs is None or _global_numpy() is not self._generator:
            return one, repr(_global_numpy().state)
        return one, theirs.value


def _global_numpy() -> Any:
    return np.random.get_bit_generator()  # type: ignore[attr-defined]  # public, but the stubs lack it


def _pair(first: int, second: int) -> int:
    """Two neighboring words of memory, read as one number."""
    return int.from_bytes(first.to_bytes(4, sys.byteorder) + second.to_bytes(4, sys.byteorder), sys.byteorder)


def _python_words() -> ctypes.c_uint64 | None:
    """Place and first word of Python's generator: CPython keeps them right behind the object's head."""
    owner, head = getattr(random, "_inst", None), object.__basicsize__
    if sys.implementation.name != "cpython" or owner is None or owner.__sizeof__() < head + 4 * 625:
        return None
    found, said = ctypes.c_uint64.from_address(id(owner) + head), random.getstate()[1]
    return found if found.value == _pair(said[624], said[0]) else None


def _numpy_words(generator: Any) -> ctypes.c_uint64 | None:
    """Last word and place of numpy's generator."""
    if not isinstance(generator, np.random.MT19937):
        return None
    found, said = ctypes.c_uint64.from_address(generator.ctypes.state_address + 4 * 623), generator.state["state"]
    return found if found.value == _pair(int(said["key"][623]), said["pos"]) else None


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
