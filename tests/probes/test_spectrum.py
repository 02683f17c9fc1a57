"""Effective rank and power law against spectra that are known, streamed sums against the explicit matrix, phases."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine import trees
from regimes.probes.spectrum import Moments, as_rows, detect_phases, power_law, rank_of
from regimes.testing.conformance import tiny


def features_with(eigenvalues, n=64, offset=3.0, seed=0):
    """Rows (n, d) whose covariance has exactly these eigenvalues, rotated, around a mean that is not 0."""
    g = torch.Generator().manual_seed(seed)
    eigenvalues = torch.as_tensor(eigenvalues, dtype=torch.float64)
    d = len(eigenvalues)
    raw = torch.randn(n, d, generator=g, dtype=torch.float64)
    basis = torch.linalg.qr(raw - raw.mean(0)).Q  # orthonormal columns, each of mean 0
    turn = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    return math.sqrt(n) * (basis * eigenvalues.sqrt()) @ turn + offset


def read(probe, x, batches=None, model=None):
    """What a probe finds in rows that go straight into the head."""
    model = model or nn.Linear(x.shape[-1], 1).double()
    return probe(model, lambda m, batch: m(batch).mean(), x, batches=batches)


# -- known spectra ----------------------------------------------------------------------------------------


@pytest.mark.exact("RankMe")
@pytest.mark.parametrize("of", ["eigenvalues", "singular_values"])
@pytest.mark.parametrize("d", [1, 2, 7, 20])
def test_isotropic_features_have_the_rank_of_their_number(d, of):
    assert read(rg.RankMe(of=of, eps=0.0), features_with([2.5] * d))[""] == pytest.approx(d, rel=1e-12)


@pytest.mark.exact("RankMe")
@pytest.mark.parametrize("k", [1, 3, 11])
def test_k_equal_directions_of_many_have_rank_k(k):
    x = features_with([0.7] * k + [0.0] * (12 - k))
    assert read(rg.RankMe(eps=0.0), x)[""] == pytest.approx(k, rel=1e-12)
    # sqrt makes 1e-17 of rounding 3e-9 of the largest.
    assert read(rg.RankMe(eps=0.0, of="singular_values"), x)[""] == pytest.approx(k, rel=1e-5)


@pytest.mark.exact("RankMe")
def test_unequal_spectra_equal_the_formula_with_its_eps():
    values = [5.0, 3.0, 1.0, 0.5, 0.2]
    for of, spectrum in (("eigenvalues", values), ("singular_values", [v**0.5 for v in values])):
        shares = [v / sum(spectrum) + 1e-3 for v in spectrum]
        wanted = math.exp(-sum(p * math.log(p) for p in shares))
        assert read(rg.RankMe(of=of, eps=1e-3), features_with(values))[""] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.exact("RankMe")
def test_features_that_do_not_vary_have_rank_zero():
    assert read(rg.RankMe(), torch.full((8, 3), 0.5, dtype=torch.float64)) == {"": 0.0}
    assert rank_of(torch.zeros(3), 1e-7) == 0.0


@pytest.mark.exact("AlphaReQ")
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.3])
@pytest.mark.parametrize("window", [None, (1, 24), (3, 9)])
def test_an_exact_power_law_gives_its_exponent(alpha, window):
    x = features_with([float(i) ** -alpha for i in range(1, 25)])
    found = read(rg.AlphaReQ(window=window), x)
    assert found[""] == pytest.approx(alpha, abs=1e-10)
    assert found["residual"] == pytest.approx(0.0, abs=1e-10)
    assert found["ranks"] == {None: 22, (1, 24): 24, (3, 9): 7}[window]


@pytest.mark.exact("AlphaReQ")
@pytest.mark.parametrize(("d", "ranks"), [(8, 8), (20, 18), (99, 90), (100, 90), (130, 90)])
def test_the_window_follows_the_number_of_features(d, ranks):
    """From 1 + d // 10, at most 11, to at most 100."""
    x = features_with([1.0 / i for i in range(1, d + 1)], n=200)
    assert read(rg.AlphaReQ(), x) == {
        "": pytest.approx(1.0, abs=1e-10),
        "residual": pytest.approx(0.0, abs=1e-10),
        "ranks": ranks,
    }


@pytest.mark.exact("AlphaReQ")
def test_the_fit_is_least_squares_over_the_window_alone():
    values = torch.tensor([9.0, 7.0, 2.0, 1.9, 0.3, 0.01], dtype=torch.float64)
    x = torch.arange(2, 6, dtype=torch.float64).log()
    line = torch.stack([torch.ones(4, dtype=torch.float64), x], 1)
    solution = torch.linalg.lstsq(line, values[1:5].log()).solution
    fit = power_law(values, 2, 5)
    assert fit.alpha == pytest.approx(-solution[1].item(), rel=1e-12)
    rest = values[1:5].log() - line @ solution
    assert fit.residual == pytest.approx(rest.square().mean().sqrt().item(), rel=1e-12)


@pytest.mark.exact("AlphaReQ")
def test_rounding_is_left_out_of_the_fit():
    x = features_with([1.0, 1 / 4, 1 / 9, 1 / 16, 0.0, 0.0])
    found = read(rg.AlphaReQ(window=(1, 6)), x)
    assert found == {"": pytest.approx(2.0, abs=1e-10), "residual": pytest.approx(0.0, abs=1e-10), "ranks": 4}
    with pytest.raises(rg.DeclarationError, match="window: got the ranks 4 to 6, but of 6 eigenvalues 4 are above"):
        read(rg.AlphaReQ(window=(4, 6)), x)


@pytest.mark.exact("RankMe", "AlphaReQ")
@pytest.mark.parametrize("probe", [rg.RankMe(), rg.RankMe(of="singular_values"), rg.AlphaReQ(window=(1, 6))])
def test_rotation_scale_and_offset_change_nothing(probe):
    x = features_with([4.0, 3.0, 2.0, 1.0, 0.6, 0.1])
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).Q
    for other in (x @ turn, 1e-3 * x, 1e3 * x, x - 40.0):
        assert read(probe, other) == pytest.approx(read(probe, x), rel=1e-9)


# -- sums by batch ------------------------------------------------------------------------------------------


@pytest.mark.exact("RankMe", "AlphaReQ")
@pytest.mark.parametrize("cuts", [[1] * 10, [3, 7], [9, 1], [10]])
def test_sums_by_batch_equal_the_explicit_covariance(cuts):
    """Also where the mean is 10^6 standard deviations away and raw sums would have lost half their digits."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(10, 4, generator=g, dtype=torch.float64) + torch.tensor([0.0, 1e6, -1e6, 3.0], dtype=torch.float64)
    first, *rest = [Moments.of(part) for part in x.split(cuts)]
    for part in rest:
        first = first + part
    wanted = torch.cov(x.T, correction=0)
    assert first.count == 10
    torch.testing.assert_close(first.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(first.scatter / 10, wanted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(first.eigenvalues(), torch.linalg.eigvalsh(wanted).flip(0), rtol=1e-8, atol=0)


def test_batches_of_a_view_are_one_matrix():
    x = features_with([3.0, 2.0, 1.0, 0.2], n=90)
    asked = []

    def batches(count, size):
        asked.append((count, size))
        return list(x.split([40, 20, 30]))

    for probe in (rg.RankMe(examples=600), rg.AlphaReQ(window=(1, 4), examples=600)):
        assert read(probe, x[:2], batches) == pytest.approx(read(probe, x), rel=1e-12)
    assert asked == [(3, 256)] * 2
    read(rg.RankMe(examples=50), x[:2], batches)
    assert asked[-1] == (1, 50)


# -- which features -------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Made in another order than it is called in; batch norm and dropout show the mode."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(5, 2), nn.Linear(3, 5)
        self.norm, self.drop = nn.BatchNorm1d(5), nn.Dropout(0.5)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.norm(self.body(x)))))


def test_default_is_what_the_last_layer_reads_in_evaluation_mode():
    torch.manual_seed(0)
    model, x = Net().double(), torch.randn(30, 3, dtype=torch.float64)
    hidden = torch.tanh(model.norm.eval()(model.body(x))).detach()
    model.norm.train()
    spectrum = torch.linalg.eigvalsh(torch.cov(hidden.T, correction=0))
    assert read(rg.RankMe(eps=0.0), x, model=model)[""] == pytest.approx(rank_of(spectrum, 0.0), rel=1e-12)
    assert read(rg.RankMe(module="drop"), x, model=model) == read(rg.RankMe(), x, model=model)
    body = torch.linalg.eigvalsh(torch.cov(model.body(x).T.detach(), correction=0)).flip(0).clamp_min(0.0)
    assert read(rg.RankMe(module="body", eps=0.0), x, model=model)[""] == pytest.approx(rank_of(body, 0.0), rel=1e-9)
    assert all(module.training for module in model.modules())


def test_tokens_of_sequences():
    x = torch.randn(20, 6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert read(rg.RankMe(), x) == read(rg.RankMe(), x[:, 5].contiguous())
    assert read(rg.RankMe(token=0), x) == read(rg.RankMe(), x[:, 0].contiguous())
    assert read(rg.RankMe(token="mean"), x) == pytest.approx(read(rg.RankMe(), x.mean(1)), rel=1e-12)
    with pytest.raises(rg.DeclarationError, match="token: got 6 for sequences of 6 tokens"):
        read(rg.RankMe(token=6), x)


def test_maps_count_as_their_mean_over_places_and_tuples_as_their_first_part():
    x = torch.randn(5, 3, 4, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.testing.assert_close(as_rows((x, None), -1), x.mean((2, 3)))
    assert as_rows(torch.ones(4), -1).shape == (4, 1)
    with pytest.raises(rg.DeclarationError, match="module: got dict as features; allowed: a tensor"):
        as_rows({}, -1)


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (
            lambda: read(rg.RankMe(module="bdy"), torch.ones(3, 3), model=Net()),
            "module: there is no module 'bdy'; did you mean 'body'",
        ),
        (
            lambda: read(rg.AlphaReQ(window=(3, 3)), torch.ones(3, 3)),
            r"window: got \(3, 3\); allowed: a first rank and a",
        ),
        (lambda: read(rg.RankMe(token="first"), torch.ones(3, 3)), "token: got 'first'"),
    ],
)
def test_what_fits_nothing_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()


def test_a_module_that_is_not_called_is_refused():
    model = Net()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(rg.DeclarationError, match="module: the forward does not call it"):
        read(rg.RankMe(module="spare"), torch.ones(3, 3), model=model)


def test_in_a_run_features_are_of_fixed_training_examples():
    """At rate 0 nothing but batch norm's running statistics moves; the layer before them gives the same every time."""
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=6, budget="4 steps")
    work = tiny.workload("classes")
    probes = [rg.RankMe(module="0", every="1 steps"), rg.AlphaReQ(module="0", window=(1, 6), every="1 steps")]
    found = [record.signals for record in rg.stream(work, regime, probes=probes)]
    inputs = next(iter(work.sources["train"]["train"].parts.values()))
    model = rg.Run(work, regime).model
    hidden = model[0](inputs).detach().double()
    spectrum = torch.linalg.eigvalsh(torch.cov(hidden.T, correction=0)).flip(0).clamp_min(0.0)
    assert [s["rank_me"] for s in found] == pytest.approx([rank_of(spectrum, 1e-7)] * 4, rel=1e-6)
    assert [s["alpha_re_q"] for s in found] == pytest.approx([power_law(spectrum, 1, 6).alpha] * 4, rel=1e-6)


def test_language_models_are_read_at_the_last_token():
    """Seven tokens, of which the model sees one at a time, span six directions around their mean."""
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=6, budget="2 steps")
    work = tiny.workload("tokens")
    probes = [rg.RankMe(every="1 steps"), rg.AlphaReQ(window=(1, 8), every="1 steps")]
    found = [record.signals for record in rg.stream(work, regime, probes=probes)]
    source = next(iter(work.sources["train"].values()))
    last = source.fetch(np.arange(len(source)), {})[0][:, -1]
    hidden = rg.Run(work, regime).model[:3](last).detach().double()
    spectrum = torch.linalg.eigvalsh(torch.cov(hidden.T, correction=0)).flip(0).clamp_min(0.0)
    assert [s["rank_me"] for s in found] == pytest.approx([rank_of(spectrum, 1e-7)] * 2, rel=1e-6)
    assert [s["alpha_re_q/ranks"] for s in found] == [6.0, 6.0]


def test_nothing_is_left_behind():
    model = Net()
    before = trees.clone(dict(model.state_dict()))
    read(rg.RankMe(), torch.randn(30, 3), model=model)
    assert trees.differences(before, dict(model.state_dict())) == []
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# -- phases -----------------------------------------------------------------------------------------------------


def names(series, share=0.05):
    return [phase.name for phase in detect_phases(series, share)]


def test_three_phases_begin_and_end_at_the_extremes():
    series = [10.0, 6.0, 2.0, 3.0, 7.0, 9.0, 8.0, 5.0]
    assert detect_phases(series) == [("warmup", 0, 2), ("entropy-seeking", 2, 5), ("compression-seeking", 5, 7)]
    shifted = [1e6 - 3 * value for value in series]
    assert [(p.start, p.stop) for p in detect_phases(shifted)] == [(0, 2), (2, 5), (5, 7)]
    assert names(shifted) == ["entropy-seeking", "compression-seeking", "entropy-seeking"]


def test_turns_no_larger_than_the_share_do_not_count():
    series = [10.0, 4.0, 4.5, 0.0, 5.0, 4.5, 10.0, 9.5]
    assert names(series) == ["warmup", "entropy-seeking"]
    assert detect_phases(series, share=0.049) == [
        ("warmup", 0, 1),
        ("entropy-seeking", 1, 2),
        ("compression-seeking", 2, 3),
        ("entropy-seeking", 3, 4),
        ("compression-seeking", 4, 5),
        ("entropy-seeking", 5, 6),
        ("compression-seeking", 6, 7),
    ]


def test_slow_turns_count_when_they_add_up():
    """No single step exceeds a twentieth of the range; the way back as a whole does."""
    down, up = [1 - i / 100 for i in range(101)], [i / 100 for i in range(1, 31)]
    assert detect_phases(down + up) == [("warmup", 0, 100), ("entropy-seeking", 100, 130)]


@pytest.mark.parametrize("series", [[], [1.0], [2.0, 2.0, 2.0]])
def test_where_nothing_changes_there_is_no_phase(series):
    assert detect_phases(series) == []


def test_series_that_cannot_be_cut_are_refused():
    with pytest.raises(rg.DeclarationError, match="series: got a measurement that is not finite"):
        detect_phases([1.0, math.nan])
    with pytest.raises(rg.DeclarationError, match=r"share: got 1\.0; allowed: at least 0 and below 1"):
        detect_phases([1.0, 2.0], share=1.0)
