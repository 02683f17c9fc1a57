"""Paths against Heston's and Black's and Scholes's formulas step by step, profits and the LSTM against plain loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.workloads.hedging import HESTON, HedgingPolicy, hedging, heston_paths, profits
from regimes.workloads.synthetic import philox


def normals(paths=50, steps=12, seed=0):
    return np.random.default_rng(seed).standard_normal((paths, steps, 2))


def test_paths_follow_the_scheme_one_by_one():
    """With a volatility at which the variance would be negative now and then."""
    drawn, h = normals(), 1 / 365
    found = heston_paths(drawn, speed=3.0, volatility=2.0, correlation=-0.6)
    clipped = 0
    for path, given in zip(found, drawn):
        s, v = 100.0, 0.04
        for t, (z, other) in enumerate(given):
            assert path[t].tolist() == pytest.approx([s, max(v, 0.0)], rel=1e-12)
            now = max(v, 0.0)
            s *= math.exp(-now / 2 * h + math.sqrt(now * h) * z)
            v += 3.0 * (0.04 - now) * h + 2.0 * math.sqrt(now * h) * (-0.6 * z + 0.8 * other)
            clipped += v < 0
        assert path[-1].tolist() == pytest.approx([s, max(v, 0.0)], rel=1e-12)
    assert clipped > 20


def test_without_volatility_of_variance_prices_are_black_and_scholes():
    drawn = normals()
    found = heston_paths(drawn, speed=0.0, volatility=0.0, correlation=0.0)
    assert (found[..., 1] == 0.04).all()
    walked = 0.2 * math.sqrt(1 / 365) * drawn[..., 0].cumsum(1)
    days = np.arange(1, 13) / 365
    np.testing.assert_allclose(found[:, 1:, 0], 100 * np.exp(walked - 0.02 * days), rtol=1e-12)


def test_prices_are_a_martingale_whose_variance_is_that_of_the_log_normal():
    """Four standard errors of 100,000 paths."""
    ends = heston_paths(normals(100_000, 20), **HESTON)[:, -1, 0]
    assert abs(ends.mean() - 100) < 4 * ends.std() / 100_000**0.5
    plain = heston_paths(normals(100_000, 20), speed=0.0, volatility=0.0, correlation=0.0)[:, -1, 0]
    expected = 100**2 * (math.exp(0.04 * 20 / 365) - 1)
    squares = (plain - 100) ** 2
    assert abs(squares.mean() - expected) < 4 * squares.std() / 100_000**0.5


def test_profits_are_the_sum_of_every_trade():
    paths = torch.from_numpy(heston_paths(normals(), **HESTON))
    positions = torch.randn(50, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for path, held, found in zip(paths, positions, profits(paths, positions, 0.01)):
        cash, now = 0.0, 0.0
        for t in range(12):  # buy, pay the cost
            cash -= (held[t] - now) * path[t, 0] + 0.01 * abs(held[t] - now) * path[t, 0]
            now = held[t]
        cash += now * path[12, 0] - 0.01 * abs(now) * path[12, 0] - max(path[12, 0] - 100, 0.0)
        torch.testing.assert_close(found, cash, rtol=1e-12, atol=1e-12)


def test_the_policy_is_torchs_lstm_cell_with_its_last_position_fed_back():
    torch.manual_seed(0)
    policy = HedgingPolicy(hidden=5, cost=0.002).double()
    policy.constant.data.fill_(0.7)
    cell = nn.LSTMCell(4, 5).double()
    with torch.no_grad():
        cell.weight_ih.copy_(policy.given.weight)
        cell.bias_ih.copy_(policy.given.bias)
        cell.weight_hh.copy_(policy.back.weight)
        cell.bias_hh.zero_()
    paths = torch.from_numpy(heston_paths(normals(), **HESTON))
    state, last, made = None, torch.zeros(50, 1).double(), []
    for t in range(12):
        price, variance = paths[:, t].unbind(1)
        moneyness = (price / 100).log() / (0.2 * math.sqrt(12 / 365))
        left = torch.full_like(price, (12 - t) / 12)
        state = cell(torch.cat([torch.stack([moneyness, variance / 0.04, left], 1), last], 1), state)
        last = state[0] @ policy.head.weight.T + policy.head.bias
        made.append(last)
    positions = torch.cat(made, 1)
    torch.testing.assert_close(policy.positions(paths), positions, rtol=0, atol=1e-14)
    torch.testing.assert_close(policy(paths)[:, 0], profits(paths, positions, 0.002) - 0.7, rtol=0, atol=1e-13)


def test_a_later_price_changes_no_earlier_position():
    policy, paths = HedgingPolicy(), torch.from_numpy(heston_paths(normals(), **HESTON)).float()
    before = policy.positions(paths)
    for t in (0, 5, 11):
        changed = paths.clone()
        changed[:, t] *= 1.1
        after = policy.positions(changed)
        assert torch.equal(before[:, :t], after[:, :t])
        assert (before[:, t:] != after[:, t:]).any(1).all()
    last = paths.clone()
    last[:, -1] *= 1.1
    assert torch.equal(policy.positions(last), before)


def test_the_best_constant_leaves_the_variance():
    """The loss is the squared distance from the constant: at the mean profit it is the variance, for any positions."""
    work = rg.workloads.load("hedging", examples=512)
    model, (paths, target) = work.build(0), work.sources["train"]["train"].parts.values()
    profit = profits(paths, model.positions(paths), model.cost).detach()
    model.constant.data.fill_(profit.mean())
    found = rg.MSE().per_unit(model(paths), target).values.mean()
    torch.testing.assert_close(found.detach(), profit.var(correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("market", ["heston", "black_scholes"])
def test_the_seed_decides_and_no_global_generator_is_touched(market):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    works = [hedging(market, examples=64, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    prints = [work.fingerprint() for work in works]
    assert prints[0] == prints[1]
    assert not set(prints[0].values()) & set(prints[2].values())
    assert len(set(prints[0].values())) == 3
    first = works[0].sources["train"]["train"].parts["0"]
    drawn = philox("hedging train", 0).standard_normal((64, 30, 2))
    options = HESTON if market == "heston" else dict.fromkeys(HESTON, 0.0)
    torch.testing.assert_close(first, torch.from_numpy(heston_paths(drawn, **options)).float())
    assert (first[..., 1] == first[0, 0, 1]).all() == (market == "black_scholes")


def test_gates_are_seen_once_a_step_by_rules_that_look_at_layers():
    work = hedging(examples=64, steps=7, hidden=4)
    run = rg.Run(work, rg.Regime(optimizer=rg.MKOR(rg.SGD(lr=0.1)), batch_size=16, budget="1 steps"), seed=0)
    seen = {}
    step = rg.MKOR.step

    def watched(self, state, parameters, evaluate):
        def asked(**options):
            found = evaluate(**options)
            seen.update({name: len(calls) for name, calls in found.captured.items() if ":" in name})
            return found

        asked.compiled = evaluate.compiled
        return step(self, state, parameters, asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rg.MKOR, "step", watched)
        run.step()
    assert seen == {f"{what}:{name}": 7 for what in ("input", "output_gradient") for name in ("given", "back", "head")}


def test_an_unknown_market_is_refused():
    with pytest.raises(ValueError, match="market: got 'bachelier'; allowed are 'heston', 'black_scholes'"):
        hedging("bachelier")
