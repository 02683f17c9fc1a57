"""Drawings have the shape of what they draw."""

import math

import pytest

from regimes.study.drawing import braille, highest, si, sparkline


def dots(lines):
    """Return {column: set of rows from below} of the dots of a braille drawing."""
    masks = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    found = {}
    for y, line in enumerate(lines):
        for x, cell in enumerate(line):
            for side in (0, 1):
                for row in range(4):
                    if (ord(cell) - 0x2800) & masks[side][row]:
                        found.setdefault(2 * x + side, set()).add(4 * len(lines) - 1 - (4 * y + row))
    return found


def test_a_straight_line_climbs_one_dot_a_column():
    found = dots(braille([float(i) for i in range(8)], 4, 2))
    assert found == {x: {x} for x in range(8)}


def test_a_jump_is_connected_and_every_column_is_drawn():
    found = dots(braille([0.0] * 10 + [1.0] * 10, 10, 3))
    assert sorted(found) == list(range(20))
    assert found[9] == {0}
    assert found[10] == set(range(1, 12))
    assert found[11] == {11}


@pytest.mark.parametrize(("value", "row"), [(0.0, 0), (2.0, 7), (-1.0, 0)])
def test_a_constant_is_a_level_line(value, row):
    assert dots(braille([value] * 5, 4, 2)) == {x: {row} for x in range(8)}


def test_blocks_show_the_highest_and_pass_over_what_is_not_finite():
    assert highest([1.0, 3.0, math.nan, 5.0, math.inf, math.nan], 3) == [3.0, 5.0, 5.0]
    assert highest([], 4) == []
    assert sparkline([], 4) == ""
    assert sparkline([1.0, 1.0], 2) == "██"


def test_amounts():
    assert [si(x) for x in (0.0, 999.0, 1e3, 12_345.0, 3.456e8, 7e15)] == [
        "0",
        "999",
        "1.00 k",
        "12.35 k",
        "346 M",
        "7.00 P",
    ]


def test_a_spike_of_one_step_is_the_highest_block():
    values = [1.0] * 10_000
    values[7_777] = 5.0
    assert [place for place, block in enumerate(sparkline(values, 48)) if block == "█"] == [7_777 * 48 // 10_000]
