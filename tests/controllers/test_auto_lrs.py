"""Forecasts against series whose end is known, the search against its own definition, trials that leave no trace."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import curve_fit
from torch import nn

import regimes as rg
from regimes.controllers.auto_lrs import penalized, posterior
from regimes.controllers.forecast import fit_exponential
from regimes.core.progress import Progress
from regimes.core.trial import TrialEnd
from regimes.engine.run import Run
from regimes.engine.trees import differences


@pytest.mark.exact("AutoLRS")
@pytest.mark.parametrize(
    ("a", "b", "c", "n"), [(2.0, -0.1, 0.5, 40), (0.3, -0.02, 1.7, 100), (-1.0, -0.3, 2.0, 20), (5.0, -1.5, 0.0, 12)]
)
def test_parameters_of_a_series_without_noise_are_recovered(a, b, c, n):
    fit = fit_exponential([a * math.exp(b * t) + c for t in range(n)])
    assert fit == pytest.approx((a, b, c), rel=1e-6, abs=1e-7)
    assert fit(10 * n) == pytest.approx(a * math.exp(b * 10 * n) + c, rel=1e-6, abs=1e-7)


@pytest.mark.exact("AutoLRS")
def test_fit_is_the_least_squares_of_scipy():
    noise = np.random.default_rng(0).normal(0, 0.05, 60)
    series = 1.5 * np.exp(-0.07 * np.arange(60)) + 0.4 + noise
    fit = fit_exponential(series.tolist())
    theirs, _ = curve_fit(lambda t, a, b, c: a * np.exp(b * t) + c, np.arange(60), series, p0=(1.0, -0.1, 0.0))
    assert tuple(fit) == pytest.approx(tuple(theirs), rel=1e-4)


def test_far_losses_of_the_first_half_are_left_out():
    clean = [2.0 * 0.9**t + 0.5 for t in range(40)]
    bad = clean.copy()
    bad[3] += 7.0
    assert fit_exponential(bad, outliers=0.03)(400) == pytest.approx(0.5, abs=1e-6)
    assert abs(fit_exponential(bad)(400) - 0.5) > 0.05
    late = clean.copy()
    late[30] += 7.0
    assert fit_exponential(late, outliers=0.03) != pytest.approx(fit_exponential(clean), abs=1e-3)


def test_a_series_that_rises_is_forecast_to_rise():
    assert fit_exponential([1.0 + 0.1 * t for t in range(20)])(200) > 15.0


@pytest.mark.exact("AutoLRS")
def test_the_process_goes_through_points_without_noise():
    x, at = np.linspace(0, 1, 6), np.linspace(0, 1, 33)
    y = np.sin(3 * x) + 2
    mean, deviation = posterior(x, y, x)
    assert mean == pytest.approx(y, abs=1e-3)
    mean, deviation = posterior(x, y, at)
    assert np.abs(mean - np.sin(3 * at) - 2).max() < 0.02
    assert deviation[1] > deviation[0]


def losses_of(rate, n=10, best=0.1):
    """Falling towards a floor that depends on the rate."""
    floor = math.log10(rate / best) ** 2
    return [floor + 0.8**t for t in range(n)]


def searched(auto, floor_at=0.1):
    state, at = auto.init(), Progress()
    while (trial := auto.propose(state, at)) is not None:
        rows = [{"fraction": 0.0, "loss": v} for v in losses_of(trial.edit[""].peak, best=floor_at)]
        state = auto.absorb(state, TrialEnd(at, rows))
    return state


@pytest.mark.exact("AutoLRS")
@pytest.mark.parametrize("best", [0.004, 0.03, 0.3])
def test_the_search_finds_the_rate_with_the_least_forecast(best):
    auto = rg.AutoLRS(1e-3, 1.0, "100 steps", "10 steps", tries=8, kappa=1.0, outliers=0.0)
    state = searched(auto, best)
    assert abs(math.log10(state["rate"] / best)) < 0.1
    assert state["until"] == 100.0
    assert state["chosen"] == [state["rate"]]


def test_much_curiosity_spreads_the_candidates():
    auto = rg.AutoLRS(1e-3, 1.0, "100 steps", "10 steps", tries=6)
    state, tried = auto.init(), []
    for _ in range(6):
        tried.append(auto.propose(state, Progress()).edit[""].peak)
        state = auto.absorb(state, TrialEnd(Progress(), [{"loss": v} for v in losses_of(tried[-1])]))
    places = np.sort(np.log10(tried))
    assert tried[0] == pytest.approx(10**-1.5)
    assert places[0] < -2.8
    assert places[-1] > -0.2
    assert np.diff(places).min() > 0.2


@pytest.mark.exact("AutoLRS")
def test_stages_double_up_to_the_longest():
    auto = rg.AutoLRS(1e-3, 1.0, "10 steps", "2 steps", tries=1, longest="25 steps")
    state, lengths, position, trials = auto.init(), [], 0, []
    for _ in range(4):
        at = Progress(phase_step=position)
        trials.append(auto.propose(state, at).budget.value)
        state = auto.absorb(state, TrialEnd(at, [{"loss": 1.0}]))
        lengths.append(state["until"] - position)
        position = int(state["until"])
        assert auto.propose(state, Progress(phase_step=position - 1)) is None
    assert lengths == [10.0, 20.0, 25.0, 25.0]
    assert trials == [2.0, 4.0, 5.0, 5.0]


def test_a_trial_that_broke_off_is_the_worst():
    assert penalized([2.0, None, 3.0, 2.5]) == [2.0, 4.0, 3.0, 2.5]
    assert penalized([None, 2.0]) == [4.0, 2.0]
    assert penalized([None, None]) == [1.0, 1.0]


X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] * 3).sin().sign().add(1).div(2).long()


def work():
    def net():
        return nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.2), nn.Tanh(), nn.Linear(16, 2))

    return rg.Workload(model=net, train=(X, Y), val=(X, Y), loss=nn.CrossEntropyLoss())


def run_of(lr, steps=24):
    optimizer = rg.SGD(lr=lr, momentum=0.9)
    return Run(work(), rg.Regime(optimizer=optimizer, batch_size=8, budget=f"{steps} steps"), seed=2)


@pytest.mark.exact("AutoLRS")
def test_with_one_candidate_it_is_training_at_that_constant_rate_bit_by_bit():
    searched_run, plain = run_of(rg.AutoLRS(0.01, 1.0, "8 steps", "4 steps", tries=1, longest="8 steps")), run_of(0.1)
    outer = [record for record in searched_run if "trial" not in record.signals]
    assert [r.loss for r in outer] == [r.loss for r in plain]
    assert {r.knobs["optimizer.lr"] for r in outer} == {0.1}
    ours, theirs = ({n: p.detach() for n, p in run.model.state_dict().items()} for run in (searched_run, plain))
    assert differences(ours, theirs) == []
    assert (searched_run.work.steps, plain.work.steps) == (24 + 3 * 4, 24)
    assert searched_run.work.side_flops == plain.work.flops / 2


@pytest.mark.exact("AutoLRS")
def test_the_chosen_rate_is_the_one_whose_trial_promised_least():
    auto = rg.AutoLRS(0.001, 10.0, "12 steps", "4 steps", tries=5, longest="12 steps")
    records = list(run_of(auto))
    trials = [r for r in records if "trial" in r.signals and r.at.step < 4]
    assert len(trials) == 5 * 4
    # Each trial by hand: a run at that rate from the same start, on the same batches.
    state, tried = auto.init(), []
    for number in range(5):
        rate = auto.propose(state, Progress()).edit[""].peak
        alone = [record.loss for record in run_of(rate)][:4]
        assert [r.loss for r in trials[4 * number : 4 * number + 4]] == alone
        tried.append((fit_exponential(alone, 0.03)(12.0), rate))
        state = auto.absorb(state, TrialEnd(Progress(), [{"loss": loss} for loss in alone]))
    outer = [r for r in records if "trial" not in r.signals]
    assert {r.knobs["optimizer.lr"] for r in outer[:12]} == {min(tried)[1]}
    assert len({rate for _, rate in tried}) == 5


@pytest.mark.exact("AutoLRS")
def test_a_forecast_is_of_the_end_of_the_stage():
    """All of the data in every batch: losses fall smoothly, and the end of the stage is far from that of the trial."""
    auto = rg.AutoLRS(0.01, 1.0, "60 steps", "12 steps", tries=3, longest="60 steps")
    data = X, (X[:, 0] > 0).long()
    task = rg.Workload(model=lambda: nn.Linear(5, 2), train=data, val=data, loss=nn.CrossEntropyLoss())
    run = Run(task, rg.Regime(optimizer=rg.SGD(lr=auto), batch_size=64, budget="60 steps"), seed=2)
    losses = [run.step().loss for _ in range(12)]
    (found,) = run.states["knobs"]["optimizer.lr"]["forecasts"]
    fit = fit_exponential(losses, 0.03)
    assert found == pytest.approx(fit(60.0), rel=1e-9)
    assert fit(60.0) < fit(12.0) - 0.02


REFUSED = [
    (lambda: rg.AutoLRS(1.0, 0.1), "high: got 0.1; allowed: above low"),
    (lambda: rg.AutoLRS(0.1, 1.0, "2 epochs"), "stage: got '2 epochs'; allowed: stage, trial and longest all in"),
    (lambda: rg.AutoLRS(0.1, 1.0, "20 steps", "5%"), "trial: got '5%'; allowed: stage, trial and longest all in"),
    (lambda: rg.AutoLRS(0.1, 1.0, "20 steps", "20 steps"), "trial: got '20 steps'; allowed: less than a stage"),
    (lambda: rg.AutoLRS(0.1, 1.0, tries=0), "tries: got 0"),
]


@pytest.mark.parametrize(("build", "said"), REFUSED)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()


@pytest.mark.parametrize(("fraction", "steps"), [(1.0, 20), (0.2, 20), (1.28, 4)])
def test_a_forecast_is_of_the_stages_end_however_long_the_trial_was(fraction, steps):
    """A trial cut after 20 of 100 steps, one of 128 samples for 100: losses are that much further apart or closer."""
    auto = rg.AutoLRS(1e-3, 1.0, "500 steps", "100 steps", tries=2, outliers=0.0)
    end = TrialEnd(Progress(), [{"loss": 1.0 + 0.5 * 0.9**t} for t in range(steps)], fraction=fraction)
    state = auto.absorb(auto.init(), end)
    whole = fit_exponential(end.losses, 0.0)
    assert state["forecasts"] == [whole(5 * steps / fraction)]
