"""State of parameters whose shape changed: repeated, read at the transform's indices, zeroed, or refused."""

import pytest
import torch

from regimes.core.errors import DeclarationError
from regimes.core.kinds import TransformResult
from regimes.engine.seam import carried


def moved(old, fresh, *results):
    states = {"optimizer": {"slots": {"w": fresh}}}
    named = {f"on_entry.{place}": result for place, result in enumerate(results)}
    carried({"optimizer": {"slots": {"w": old}}}, states, ("optimizer",), named)
    return states["optimizer"]["slots"]["w"]


OLD = torch.arange(6.0).view(2, 3)
ROWS, COLUMNS = torch.tensor([0, 1, 1]), torch.tensor([2, 0, 1, 2])


def grown(*indices, **rules):
    return TransformResult({"w": "w"}, rules or {"*": "tile"}, {"w": indices})


def test_tile_follows_the_indices_axis_by_axis():
    slot = moved({"m": OLD, "t": 3}, {"m": torch.zeros(3, 4), "t": 0}, grown(ROWS, COLUMNS))
    assert slot["m"].tolist() == [[OLD[i, j] for j in (2, 0, 1, 2)] for i in (0, 1, 1)]
    assert slot["t"] == 3


def test_sums_over_an_axis_keep_their_length_of_one():
    row = OLD.sum(1, keepdim=True)
    slot = moved({"row": row}, {"row": torch.zeros(3, 1)}, grown(ROWS, COLUMNS))
    assert torch.equal(slot["row"], row[ROWS])


def test_two_changes_are_followed_in_their_order():
    slot = moved({"m": OLD}, {"m": torch.zeros(4, 4)}, grown(ROWS, COLUMNS), grown(torch.tensor([2, 2, 0, 1]), None))
    assert torch.equal(slot["m"], OLD[ROWS][:, COLUMNS][torch.tensor([2, 2, 0, 1])])


def test_a_rule_by_key_goes_before_the_rule_for_all():
    result = grown(ROWS, COLUMNS, **{"*": "tile", "v": "zeros"})
    slot = moved({"m": OLD, "v": OLD}, {"m": torch.zeros(3, 4), "v": torch.ones(3, 4)}, result)
    assert torch.equal(slot["m"], OLD[ROWS][:, COLUMNS])
    assert torch.equal(slot["v"], torch.zeros(3, 4))


def test_what_a_rule_makes_at_its_first_step_follows_or_is_made_anew():
    assert torch.equal(moved({"m": OLD}, {}, grown(ROWS, COLUMNS))["m"], OLD[ROWS][:, COLUMNS])
    assert moved({"m": OLD}, {}, grown(ROWS, COLUMNS, m="zeros")) == {}
    assert moved({"m": OLD}, {}, TransformResult({"w": "w"}))["m"] is OLD


def test_without_indices_state_is_repeated_as_a_whole():
    slot = moved({"m": OLD}, {"m": torch.zeros(3, 4)}, TransformResult({"w": "w"}, {"m": "tile"}))
    assert slot["m"].tolist() == [[0, 1, 2, 0], [3, 4, 5, 3], [0, 1, 2, 0]]


@pytest.mark.parametrize(
    ("fresh", "result"),
    [
        (torch.zeros(3, 4), grown(ROWS, COLUMNS, m="copy")),
        (torch.zeros(3, 5), grown(ROWS, COLUMNS)),
        (torch.zeros(12), grown(ROWS, COLUMNS)),
    ],
)
def test_what_does_not_fit_is_refused(fresh, result):
    with pytest.raises(DeclarationError, match=r"carry: state of shape .* cannot be carried"):
        moved({"m": OLD}, {"m": fresh}, result)


def test_several_that_begin_as_one_have_state_of_their_own():
    fresh = {"a": {"m": torch.zeros(2, 3)}, "b": {"m": torch.zeros(2, 3)}}
    states = {"optimizer": {"slots": fresh}}
    old = {"optimizer": {"slots": {"w": {"m": OLD.clone()}}}}
    carried(old, states, ("optimizer",), {"on_entry.0": TransformResult({"a": "w", "b": "w"})})
    a, b = (states["optimizer"]["slots"][name]["m"] for name in "ab")
    a.add_(1.0)
    assert torch.equal(b, OLD)


def test_averages_are_weights_and_do_not_go_round():
    with pytest.raises(DeclarationError, match="cannot be carried"):
        moved(OLD, torch.zeros(3, 4), grown(ROWS, COLUMNS))
