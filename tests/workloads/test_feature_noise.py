"""Patches as their definition says, and the network of squared ReLUs by its closed form: values, gradients, flow."""

import numpy as np
import pytest
import torch

import regimes as rg
from regimes.workloads.feature_noise import PatchCNN, draw_patches, feature_noise, features, same_sign


def points(n=400, share=0.8, seed=0, **sizes):
    return draw_patches(n, share, np.random.default_rng(seed), **sizes)


@pytest.mark.parametrize("share", [0.0, 0.33, 0.8, 1.0])
def test_patches_are_the_features_times_the_label_and_noise_besides(share):
    (x, y), (u, v) = points(share=share), features()
    assert x.shape == (400, 3, 40)
    assert set(y.unique().tolist()) == {-1.0, 1.0}
    assert (u.norm().item(), v.norm().item(), (u @ v).item()) == (pytest.approx(0.6), pytest.approx(1.8), 0.0)
    assert torch.equal(x[:, 0], y * u)
    has = (x[:, 1] == y * v).all(1)
    assert has.sum() == round(share * 400)
    assert has[: len(has) // 2].any() == (share > 0)  # in random order
    rest = torch.cat([x[~has, 1], x[:, 2]])
    assert not (rest @ torch.stack([u, v], 1)).any()
    # Each of the 38 other axes is normal: mean and variance within four standard errors over all.
    noise = rest[:, 2:].double()
    n = noise.numel()
    assert abs(noise.mean()) < 4 * 0.15 / n**0.5
    assert abs(noise.var() / 0.15**2 - 1) < 4 * (2 / n) ** 0.5


def test_sizes_are_parameters_and_others_refused():
    x, _ = points(10, 1.0, inputs=5, weak=2.0, strong=3.0, noise=0.0)
    assert x[:, :, :2].abs().tolist() == [[[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]] * 10
    assert not x[:, :, 2:].any()
    with pytest.raises(ValueError, match="inputs: got 2; allowed is a whole number of at least 3"):
        points(inputs=2)
    with pytest.raises(ValueError, match=r"share: got 1.5; allowed is a number from 0 to 1"):
        points(share=1.5)


def test_the_workload_tells_points_with_the_weak_feature_alone_from_others():
    work = feature_noise(share=0.5, examples=20, seed=3)
    v = features()[1]
    for split in ("val", "test"):
        for name, sources in work.sources[split].items():
            x, y = sources.parts.values()
            assert bool((x[:, 1] == y * v).all(1).any()) == bool((x[:, 1] == y * v).all(1).all()) == (name == "strong")
    x, y = work.sources["train"]["train"].parts.values()
    assert (x[:, 1] == y * v).all(1).sum() == 10
    assert same_sign(torch.tensor([[2.0], [-1.0], [0.0]]), torch.tensor([[1.0], [1.0], [1.0]])).tolist() == [1, 0, 0]
    prints = [feature_noise(examples=20, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1]
    assert not set(prints[0].values()) & set(prints[2].values())


# -- the network, by hand -----------------------------------------------------------------------------------------


def by_hand(w, x):
    """f of filters {sign: (m, d)}, one product after the other."""
    m = len(w[1])
    return sum(sign * max(float(row @ patch), 0.0) ** 2 / m for sign, rows in w.items() for row in rows for patch in x)


def gradient_by_hand(w, x, y):
    """Of half the squared difference at one point: (f - y) (2 / m) sum_p max(w . x_p, 0) x_p, minus for the others."""
    m, residual = len(w[1]), by_hand(w, x) - y
    return {
        sign: np.stack([sign * residual * 2 / m * sum(max(float(row @ p), 0.0) * p for p in x) for row in rows])
        for sign, rows in w.items()
    }


def doubled(filters=4, seed=0, std=0.5):
    torch.manual_seed(seed)
    return PatchCNN(40, filters, std).double()


def weights(net):
    return {1: net.positive.weight.detach().numpy().copy(), -1: net.negative.weight.detach().numpy().copy()}


@pytest.mark.exact("FeatureResponse")
def test_value_and_gradient_are_the_closed_form():
    net, (x, y) = doubled(), points(6)
    x, y = x.double(), y.double()
    for one, target in zip(x, y):
        assert net(one[None]).item() == pytest.approx(by_hand(weights(net), one.numpy()), rel=1e-12)
        loss = 0.5 * (net(one[None]) - target).square().sum()
        found = torch.autograd.grad(loss, [net.positive.weight, net.negative.weight])
        wanted = gradient_by_hand(weights(net), one.numpy(), target.item())
        for g, sign in zip(found, (1, -1)):
            np.testing.assert_allclose(g.numpy(), wanted[sign], rtol=1e-12, atol=1e-14)


@pytest.mark.exact("FeatureResponse")
def test_a_run_is_the_closed_form_step_by_step():
    """A hundred steps of batches of one, in float64, against the gradient by hand; MSE is twice the half square."""
    x, y = points(20)
    work = rg.Workload(model=lambda: doubled(), train=(x.double(), y.double()), loss=rg.MSE())
    run = rg.Run(work, rg.Regime(optimizer=rg.SGD(lr=0.05), batch_size=1, budget="100 steps"), seed=1)
    w = weights(run.model)
    while not run.finished:
        (i,) = run.frame.plans[0].indices
        run.step()
        g = gradient_by_hand(w, x[i].double().numpy(), y[i].item())
        w = {sign: rows - 0.05 * 2 * g[sign] for sign, rows in w.items()}
    for sign, rows in weights(run.model).items():
        np.testing.assert_allclose(rows, w[sign], rtol=0, atol=1e-10)
    assert np.abs(w[1] - weights(doubled())[1]).max() > 0.1


@pytest.mark.exact("FeatureResponse")
@pytest.mark.parametrize("c", [0.25, 2.0, 3.0])
def test_filters_times_c_are_the_function_times_c_squared(c):
    net, (x, _) = doubled(), points(10)
    before = net(x.double())
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(c)
    torch.testing.assert_close(net(x.double()), c**2 * before, rtol=1e-12, atol=0)


@pytest.mark.exact("FeatureResponse")
def test_full_batches_at_small_rates_follow_the_gradient_flow():
    """Against a Runge-Kutta solution of the flow by hand: half the rate, half the error."""
    x, y = points(8, share=0.5)
    x, y = x.double(), y.double()

    def slope(w):
        each = [gradient_by_hand(w, one.numpy(), target.item()) for one, target in zip(x, y)]
        return {sign: -sum(g[sign] for g in each) / len(x) for sign in w}

    def moved(w, k, h):
        return {sign: w[sign] + h * k[sign] for sign in w}

    w, h, time = weights(doubled(2)), 0.05, 2.0
    for _ in range(round(time / h)):
        a = slope(w)
        b = slope(moved(w, a, h / 2))
        c = slope(moved(w, b, h / 2))
        d = slope(moved(w, c, h))
        w = {s: w[s] + h / 6 * (a[s] + 2 * b[s] + 2 * c[s] + d[s]) for s in w}

    def error(rate):
        work = rg.Workload(model=lambda: doubled(2), train=(x, y), loss=rg.MSE())
        regime = rg.Regime(optimizer=rg.SGD(lr=rate / 2), batch_size=8, budget=f"{round(time / rate)} steps")
        run = rg.Run(work, regime, seed=0, count_flops=False)
        list(run)
        return max(np.abs(rows - w[sign]).max() for sign, rows in weights(run.model).items())

    coarse, fine, finest = (error(rate) for rate in (0.04, 0.02, 0.01))
    assert coarse / fine == pytest.approx(2, abs=0.1)
    assert fine / finest == pytest.approx(2, abs=0.05)
    assert finest < 0.02
