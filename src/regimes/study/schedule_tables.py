"""Schedules from tables of values: a published one, or the rates that a run has logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Schedule
from regimes.schedules import Constant, Piecewise
from regimes.study.foreign.rows import number_of, rows_of

#: Columns that say where a row is, if none is named.
_POSITIONS = ("step", "_step", "fraction")


class Table(NamedTuple):
    """Values at positions that increase: steps, or fractions of the stretch.

    Parameters
    ----------
    positions : list of float
    values : list of float
    in_steps : bool
    """

    positions: list[float]
    values: list[float]
    in_steps: bool

    def moment(self, position: float) -> Duration:
        """Return a position as a Duration: percentages to the tenth decimal, closer than schedules tell moments apart."""
        return Duration(position, "steps") if self.in_steps else Duration(round(100.0 * position, 10), "%")


def from_table(
    points: Any, interpolate: str = "linear", *, position: str | None = None, value: str | None = None
) -> Schedule:
    """Return the schedule that goes through the points of a table, to the bit.

    Parameters
    ----------
    points : sequence of pairs, DataFrame, mapping of columns, or path
        (position, value) pairs, or rows as `regimes.verdict` reads them: a .csv, .tsv, .json or .jsonl file, or what a
        tracker keeps. Whole numbers are steps, others fractions of the stretch, from 0 to 1; a column that is called
        step or fraction is what it says.
    interpolate : {"linear", "constant"}
        Straight lines between the points, or each value until the next. Default "linear".
    position, value : str, optional
        Columns of rows. Default for `position` the one that is called step or fraction, else the first; for `value` the
        only other one. Rows without either are left out.

    Returns
    -------
    Schedule
        A `Piecewise` whose peak is 1, so that its factors are the values; `lr.peak` scales them all. Before the first
        point it holds that one's value, after the last the last's. A table of one value is a `Constant`.

    Raises
    ------
    DeclarationError
        If positions do not increase, or are neither whole steps nor fractions; if a value is not finite, a column is not
        there or not to be told, or there is no point.

    Examples
    --------
    >>> s = from_table([(0, 0.0), (100, 3e-4), (1000, 3e-5)])
    >>> s
    Piecewise(1.0, at=['100 steps', '1000 steps'], factors=[0.0003, 3e-05], interpolate='linear', first=0.0)
    >>> [round(s(f, steps=1000), 8) for f in (0.0, 0.05, 0.1, 0.55, 1.0)]
    [0.0, 0.00015, 0.0003, 0.000165, 3e-05]
    >>> from_table([(0.0, 0.1), (0.3, 0.1), (0.6, 0.01)], "constant")
    Piecewise(1.0, at=['60%'], factors=[0.01], first=0.1)

    The rates of a run, again:

    >>> import regimes as rg
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=4, budget="20 steps")
    >>> run = rg.run(rg.workloads.load("quadratic"), regime)
    >>> again = from_table([(row["step"], row["knobs"]["optimizer.lr"]) for row in run.records])
    >>> repeated = rg.run(rg.workloads.load("quadratic"), regime.but({"optimizer.lr": again}))
    >>> [row["loss"] for row in repeated.records] == [row["loss"] for row in run.records]
    True
    """
    if interpolate not in ("linear", "constant"):
        raise DeclarationError(f"got {show(interpolate)}; allowed: linear, constant", "interpolate")
    table = table_of(points, position, value)
    pairs = list(zip(table.positions, table.values))
    if pairs[0][0] > 0.0:
        pairs.insert(0, (0.0, pairs[0][1]))
    kept = _needed(pairs, interpolate == "linear")
    if len(kept) == 1:
        return Constant(kept[0][1])
    at, factors = zip(*kept[1:])
    return Piecewise(1.0, [table.moment(p) for p in at], factors, interpolate, first=kept[0][1])


def _needed(pairs: list[tuple[float, float]], linear: bool) -> list[tuple[float, float]]:
    """The points without those that repeat the value before (and, between straight lines, that after)."""
    values = [v for _, v in pairs]
    after = [*values[1:], values[-1]]
    return [
        pair
        for i, pair in enumerate(pairs)
        if i == 0 or values[i] != values[i - 1] or (linear and values[i] != after[i])
    ]


def table_of(points: Any, position: str | None = None, value: str | None = None) -> Table:
    """Read points as `from_table` describes them.

    Raises
    ------
    DeclarationError
    """
    plain = isinstance(points, Sequence) and not isinstance(points, str)
    if plain and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in points):
        pairs, said = [tuple(pair) for pair in points], None
    else:
        pairs, said = _columns(points, position, value)
    if not pairs:
        raise DeclarationError("got none; allowed: one at least", "points")
    for pair in pairs:
        if not all(isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x) for x in pair):
            raise DeclarationError(f"got {show(pair)}; allowed: a position and a value, both finite numbers", "points")
    places = [float(p) for p, _ in pairs]
    whole = all(p == int(p) for p in places)
    in_steps = whole and (max(places) > 1.0 or not any(isinstance(p, float) for p, _ in pairs))
    if said in _POSITIONS:  # the column's name says which
        in_steps = whole and said != "fraction"
    for before, place in zip([-1.0, *places], places):
        if place < 0.0 or (place > 1.0 and not in_steps):
            raise DeclarationError(f"got {place:g}; allowed: whole steps, or fractions from 0 to 1", "points")
        if place <= before:
            raise DeclarationError(f"got {place:g} after {before:g}; allowed: positions that increase", "points")
    return Table(places, [float(v) for _, v in pairs], in_steps)


def _columns(points: Any, position: str | None, value: str | None) -> tuple[list[tuple[Any, ...]], str]:
    """The pairs of two columns, and the name of the first."""
    found = rows_of(points)
    names = found.columns
    usual = [found.step, *(name for name in _POSITIONS if name in names), names[0]]
    position = position or next(name for name in usual if name is not None)
    others = [name for name in names if name != position]
    if value is None and len(others) != 1:
        raise DeclarationError(f"say which column; allowed: {', '.join(others)}", "value")
    for key, name in (("position", position), ("value", value)):
        if name is not None and name not in names:
            raise DeclarationError(f"there is no column '{name}'; {nearest(name, names)}", key)
    pairs = [(row.get(position), row.get(value or others[0])) for row in found.rows]
    return [tuple(number_of(cell) for cell in pair) for pair in pairs if None not in pair], position
