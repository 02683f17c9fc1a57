"""Thresholdout: its limits exactly, its noise as distributed, its budget never exceeded."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import regimes as rg
from regimes.claims.reusable_holdout import Analysis
from regimes.core.errors import DeclarationError, RegimesError

STREAM = np.random.default_rng(0)
TRAIN, HOLDOUT = (STREAM.random((40, 30)) for _ in range(2))
QUESTIONS = [lambda half, place=place: half[place] for place in range(40)]
MEANS = TRAIN.mean(1), HOLDOUT.mean(1)


def answers(budget=1000, **asked):
    guarded = rg.ReusableHoldout(TRAIN, HOLDOUT, budget=budget, **asked)
    return [guarded.query(question) for question in QUESTIONS], guarded


@pytest.mark.exact("ReusableHoldout")
def test_without_threshold_and_noise_the_holdout_mean_wherever_the_halves_differ():
    found, guarded = answers(threshold=0, noise=0)
    assert found == list(MEANS[1])
    assert guarded.spent == guarded.asked == 40
    same = rg.ReusableHoldout(TRAIN, TRAIN.copy(), 0, 0, budget=1)
    assert [same.query(question) for question in QUESTIONS] == list(MEANS[0])
    assert same.spent == 0


@pytest.mark.exact("ReusableHoldout")
def test_an_infinite_threshold_always_gives_the_training_mean_and_spends_nothing():
    found, guarded = answers(budget=1, threshold=math.inf, noise=0.5)
    assert found == list(MEANS[0])
    assert (guarded.spent, guarded.left, guarded.asked) == (0, 1, 40)


@pytest.mark.exact("ReusableHoldout")
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.05, 0.2])
def test_without_noise_a_plain_rule(threshold):
    found, guarded = answers(threshold=threshold, noise=0)
    read = np.abs(MEANS[1] - MEANS[0]) > threshold
    assert found == list(np.where(read, MEANS[1], MEANS[0]))
    assert guarded.spent == read.sum()


@pytest.mark.exact("ReusableHoldout")
@pytest.mark.parametrize("budget", [1, 3, 17])
def test_answers_over_the_threshold_never_exceed_the_budget(budget):
    guarded, over = rg.ReusableHoldout(TRAIN, HOLDOUT, 0.02, 0.01, budget=budget, seed=4), 0
    while guarded.left:
        place = guarded.asked % 40
        over += guarded.query(QUESTIONS[place]) != MEANS[0][place]
    assert over == guarded.spent == budget
    with pytest.raises(
        RegimesError, match=f"the budget of {budget} answers .* is spent after {guarded.asked} questions"
    ):
        guarded.query(QUESTIONS[0])
    assert guarded.spent == budget


@pytest.mark.exact("ReusableHoldout")
def test_a_seed_gives_its_answers_again_and_another_gives_others():
    assert answers(seed=7)[0] == answers(seed=7)[0]
    assert answers(threshold=0.0, seed=7)[0] != answers(threshold=0.0, seed=8)[0]


@pytest.mark.exact("ReusableHoldout")
def test_noise_is_laplace_of_the_scales_of_the_paper():
    """Halves far apart: every answer is h + Lap(s). At a gap of g it is read with P(g > T + Lap(2s) + Lap(4s))."""
    far = rg.ReusableHoldout([0.0], [1.0], 0.0, 0.01, budget=4000)
    found = np.array([far.query(lambda half: half) for _ in range(4000)])
    assert stats.kstest(found - 1.0, stats.laplace(scale=0.01).cdf).pvalue > 1e-3
    reads, scale, gap = 0, 0.01, 0.1
    for seed in range(3000):
        reads += rg.ReusableHoldout([0.0], [gap], 0.04, scale, budget=1, seed=seed).query(lambda half: half) != 0.0
    x = np.linspace(-2, 2, 400_001)
    chance = float(
        np.sum(stats.laplace(scale=2 * scale).pdf(x) * stats.laplace(scale=4 * scale).cdf(gap - 0.04 - x))
        * (x[1] - x[0])
    )
    assert stats.binomtest(reads, 3000, chance).pvalue > 1e-3
    assert 0.05 < 1 - chance < 0.3


@pytest.mark.exact("ReusableHoldout")
def test_the_threshold_moves_only_where_the_holdout_was_read(monkeypatch):
    """One draw at the beginning, one per question, two more per answer from the hold-out set."""
    guarded = rg.ReusableHoldout(TRAIN, HOLDOUT, 0.05, 0.01, budget=40, seed=1)
    before, draws = guarded._moved, []
    monkeypatch.setattr(guarded, "_stream", Counting(guarded._stream, draws))
    for question in QUESTIONS:
        moved, spent = guarded._moved, guarded.spent
        draws.clear()
        guarded.query(question)
        assert draws == ([0.04, 0.02, 0.01] if guarded.spent > spent else [0.04])
        assert (guarded._moved != moved) == (guarded.spent > spent)
    assert guarded._moved != before
    assert 0 < guarded.spent < 40


class Counting:
    """A stream that notes the scale of every draw."""

    def __init__(self, stream, draws):
        self.stream, self.draws = stream, draws

    def laplace(self, loc, scale):
        self.draws.append(scale)
        return self.stream.laplace(loc, scale)


def test_questions_may_be_of_tensors_and_of_tuples():
    x, y = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, -1.0])
    guarded = rg.ReusableHoldout((x, y), (x, -y), 0.1, 0.0, budget=2)
    assert guarded.query(lambda half: half[0][:, 0] * half[1]) == -1.0
    assert guarded.query(lambda half: (half[0][:, 0] == half[1]).float()) == 0.0


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"threshold": -0.1}, "threshold: got -0.1; allowed: a number, 0 or more"),
        ({"threshold": math.nan}, "threshold: got nan"),
        ({"noise": math.inf}, "noise: got inf; allowed: a finite number"),
        ({"budget": 0}, "budget: got 0; allowed: how many answers, 1 or more"),
        ({"budget": 2.0}, "budget: got 2.0"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked, said):
    with pytest.raises(DeclarationError) as caught:
        rg.ReusableHoldout(TRAIN, HOLDOUT, **({"budget": 3} | asked))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("values", [[0.5, 1.5], [0.5, math.nan], []])
def test_a_question_out_of_bounds_is_refused_and_costs_nothing(values):
    guarded = rg.ReusableHoldout([0.5], [0.5], budget=1)
    with pytest.raises(DeclarationError, match="question: got .*; allowed: a value in"):
        guarded.query(lambda half: values)
    assert (guarded.asked, guarded.spent) == (0, 0)


def test_the_claim_measures_what_it_says_on_a_small_case():
    """Raw: what is reported is the accuracy on the hold-out half, which chose the features; fresh data know nothing."""
    analysis = Analysis(400, 400)
    raw = [analysis.made(seed, guarded=False) for seed in range(5)]
    assert np.mean([said - true for said, true in raw]) > 0.08
    assert abs(np.mean([true for _, true in raw]) - 0.5) < 0.03
    strong = [Analysis(400, 400, planted=20, most=50).made(seed, guarded=False)[1] for seed in range(5)]
    assert np.mean(strong) > 0.62
