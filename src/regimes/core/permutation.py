"""Permutations of all examples: drawn as a whole while they are few, computed where they are read when they are many."""

from __future__ import annotations

import numpy as np

#: Up to so many examples a permutation is drawn as a whole: 8 MB and 15 ms.
WHOLE = 2**20
#: Places that are computed at once, and kept until others are read.
BLOCK = 4096
#: A million permutations of 10 examples can be told from uniform ones after 10 rounds, not after 12.
ROUNDS = 12


def permutation(size: int, stream: np.random.Generator) -> np.ndarray | Feistel:
    """Return a uniform permutation of 0 ... size - 1, to be read by slices or at an array of places.

    Up to 2^20 examples it is ``stream.permutation(size)``, the shuffle of Fisher and Yates; above, a `Feistel`
    permutation, which takes neither memory nor time before it is read.

    Parameters
    ----------
    size : int
    stream : numpy Generator
        At the beginning of the permutation's stream.

    Examples
    --------
    >>> from regimes.core.randomness import philox
    >>> permutation(5, philox(0, "epoch", 0)).tolist()
    [4, 3, 1, 0, 2]
    >>> permutation(10**12, philox(0, "epoch", 0))[:3].tolist()
    [104041531370, 45947581287, 450306719295]
    """
    return stream.permutation(size) if size <= WHOLE else Feistel(size, stream)


class Feistel:
    r"""A permutation of 0 ... n - 1 that is computed where it is read: a Feistel network with cycle walking.

    Let 2 h be the least even number of bits with :math:`n \le 2^{2h}`. Place i becomes :math:`i + k_0` modulo
    :math:`2^{2h}`, which is two halves (l, r) of h bits; then for t = 1 ... 12

    .. math:: (l, r) \leftarrow (r, \; l \oplus \lfloor m(r + k_t) \, / \, 2^{64 - h} \rfloor)

    with m the finalizer of splitmix64 and :math:`k_t` the t-th word of the stream. That permutes the numbers below
    :math:`2^{2h}`. One that comes out as n or above goes in again until it does not, which permutes those below n.

    Parameters
    ----------
    size : int
        n, up to 2^62.
    stream : numpy Generator
        At the beginning of the permutation's stream, whose first words (64 bits) are the keys.
    rounds : int
        Default 12.

    Notes
    -----
    A number goes through the network :math:`2^{2h} / n` times on average, fewer than four. Slices are computed in
    blocks of 4,096 places, of which the last one is kept.

    Rounds alone give even permutations only, and cycle walking hands most of that on; :math:`k_0` makes half of them
    odd.

    References
    ----------
    M. Luby and C. Rackoff, How to Construct Pseudorandom Permutations from Pseudorandom Functions, SIAM Journal on
    Computing 1988; J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002 (cycle walking);
    G. Steele, D. Lea and C. Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014 (the finalizer).

    Examples
    --------
    >>> from regimes.core.randomness import philox
    >>> order = Feistel(10, philox(0, "epoch", 0))
    >>> order[:].tolist(), order[3:5].tolist(), order[np.array([4, 0])].tolist()
    ([1, 3, 6, 4, 5, 7, 9, 0, 2, 8], [4, 5], [5, 1])
    """

    def __init__(self, size: int, stream: np.random.Generator, rounds: int = ROUNDS) -> None:
        half = (max(size - 1, 1).bit_length() + 1) // 2
        self._size = size
        self._half, self._upper, self._mask = _words(half, 64 - half, 2**half - 1)
        self._moved, *self._keys = stream.bit_generator.random_raw(1 + rounds)[:, None]
        self._number, self._block = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        """Return what stands at these places, shape (places,); a slice is one of neighbors."""
        if not isinstance(places, slice):
            return self._at(places.astype(np.uint64))
        start, stop, _ = places.indices(self._size)
        pieces = [self._block[:0]]
        while start < stop:
            number, inside = divmod(start, BLOCK)
            pieces.append(self._numbered(number)[inside : inside + stop - start])
            start += len(pieces[-1])
        return pieces[1] if len(pieces) == 2 else np.concatenate(pieces)

    def _numbered(self, number: int) -> np.ndarray:
        """Block `number`, which is kept."""
        if number != self._number:
            begin = number * BLOCK
            self._block = self._at(np.arange(begin, min(begin + BLOCK, self._size), dtype=np.uint64))
            self._number = number
        return self._block

    def _at(self, places: np.ndarray) -> np.ndarray:
        """What stands at these places."""
        found = self._through(places)
        outside = np.flatnonzero(found >= self._size)
        while len(outside):
            again = self._through(found[outside])
            found[outside] = again
            outside = outside[again >= self._size]
        return found.view(np.int64)

    def _through(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers below 2^(2 h) after one way through the network."""
        moved = numbers + self._moved
        left, right = (moved >> self._half) & self._mask, moved & self._mask
        for key in self._keys:
            # The finalizer without its last shift: that leaves the upper half of the bits as it is.
            mixed = right + key
            mixed ^= mixed >> _FIRST_SHIFT
            mixed *= _FIRST_FACTOR
            mixed ^= mixed >> _SECOND_SHIFT
            mixed *= _SECOND_FACTOR
            mixed >>= self._upper
            left ^= mixed
            left, right = right, left
        return left << self._half | right


def _words(*values: int) -> np.ndarray:
    """Numbers of 64 bits, each an array of one: numpy reads these in half the time of a scalar."""
    return np.array(values, np.uint64)[:, None]


_FIRST_SHIFT, _FIRST_FACTOR, _SECOND_SHIFT, _SECOND_FACTOR = _words(30, 0xBF58476D1CE4E5B9, 27, 0x94D049BB133111EB)
