"""Warming up again: step by step against the formula, its reductions, and replay as a mixture."""

import math

import pytest

import regimes as rg
from regimes.core.kinds import SourceView, percent_span
from regimes.core.progress import Progress
from regimes.samplers.preview import draws


def table(schedule, steps):
    function = schedule.bind(percent_span(steps))
    return [function(Progress(fraction=t / steps, run_fraction=t / steps)) for t in range(steps + 1)]


@pytest.mark.exact("Rewarm")
@pytest.mark.parametrize("rise", [0, 1, 10, 99])
def test_every_step_is_the_formula(rise):
    expected = [0.03 + 0.27 * t / rise for t in range(rise)]
    expected += [0.03 + 0.27 / 2 * (1 + math.cos(math.pi * (t - rise) / (100 - rise))) for t in range(rise, 101)]
    found = table(rg.Rewarm(0.3, f"{rise} steps"), 100)
    assert found == pytest.approx(expected, rel=1e-12)
    assert [found[rise], found[100]] == pytest.approx([0.3, 0.03], rel=1e-15)  # the peak, and a tenth of it


@pytest.mark.exact("Rewarm")
def test_from_zero_it_is_a_cosine_with_a_warm_up_to_the_bit():
    for rise in ("0%", "1%", "13%", "7 steps", "100%"):
        for final in (0.0, 0.011):
            mine, theirs = rg.Rewarm(0.3, rise, final, 0.0), rg.Cosine(0.3, final, warmup=rise)
            assert table(mine, 97) == table(theirs, 97), rise


@pytest.mark.exact("Rewarm")
def test_without_a_rise_it_starts_at_the_peak_and_a_peak_at_the_floor_is_constant():
    assert table(rg.Rewarm(0.3, "0%", 0.02), 97) == table(rg.Cosine(0.3, 0.02), 97)
    assert set(table(rg.Rewarm(0.02, "10%", 0.02), 97)) == {0.02}


@pytest.mark.exact("Rewarm")
def test_it_is_a_line_and_a_cosine_one_after_the_other():
    parts = rg.Linear(0.05, 0.3).then(rg.Cosine(0.3, 0.02), "20%")
    assert table(rg.Rewarm(0.3, "20%", 0.02, 0.05), 100) == pytest.approx(table(parts, 100), rel=1e-13)


def test_it_begins_where_the_first_training_ended():
    first = rg.Rewarm(0.3, "10%", start=0.0)
    assert first(1.0) == rg.Rewarm(0.3, "10%")(0.0) == 0.03


@pytest.mark.parametrize("replay", [0, 1, 4, 8, 15, 16])
def test_a_share_of_old_data_is_exact_in_every_batch(replay):
    """16 examples, of which `replay` are old: r = replay / 16; none and all are the pure streams."""
    view = SourceView({"old": 40, "new": 64}, lambda source, name: None)
    mixed = list(draws(rg.Mixture(old=replay / 16, new=1 - replay / 16), view, n=16, seed=3, batches=20))
    for draw in mixed:
        assert (draw.sources == 0).sum() == replay
    for share, name in ((0, "new"), (16, "old")):
        if replay == share:
            pure = list(draws(rg.Mixture(**{name: 1.0}), view, n=16, seed=3, batches=20))
            assert all((a.indices == b.indices).all() for a, b in zip(mixed, pure, strict=True))


@pytest.mark.parametrize(
    ("build", "said"),
    [(lambda: rg.Rewarm(1.0, "50%", warmup="60%")(0.9), "rise: got '50%'; allowed: no longer than the stretch after")],
)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()
