"""Responses to directions against products one by one; residuals that change their sign against outputs by hand."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.probes import feature_response


@pytest.mark.exact("FeatureResponse")
@pytest.mark.parametrize("shape", [(5, 6), (5, 2, 3), (4, 6, 1, 1)])
def test_a_response_is_the_largest_product_of_a_row(shape):
    draw = torch.Generator().manual_seed(0)
    weight, d = torch.randn(shape, generator=draw, dtype=torch.float64), torch.randn(6, generator=draw).double()
    wanted = max(sum(a * b for a, b in zip(row.flatten().tolist(), d.tolist())) for row in weight)
    found = feature_response(weight, {"d": d, "-d": (-d).tolist()})
    assert found["d"] == pytest.approx(wanted, rel=1e-12)
    assert found["-d"] == pytest.approx(-(weight.flatten(1) @ d).min().item(), rel=1e-12)


@pytest.mark.exact("FeatureResponse")
def test_in_a_run_it_is_that_of_the_weights_after_the_step():
    work = rg.workloads.load("feature_noise")
    weak = [0.6] + 39 * [0.0]
    probe = rg.FeatureResponse("positive.weight", [weak], ["weak"], every="1 steps")
    regime = rg.Regime(optimizer=rg.SGD(lr=0.5), batch_size=1, budget="5 steps")
    found = rg.run(work, regime, seed=0, probes=[probe], progress=False)
    wanted = 0.6 * found.model.positive.weight[:, 0].max().item()
    assert found.records[-1]["feature_response/weak"] == pytest.approx(wanted, rel=1e-6)


def test_names_stand_for_directions_and_what_does_not_fit_is_refused():
    model = nn.Linear(3, 2)
    assert list(rg.FeatureResponse("weight", [[1.0, 0.0, 0.0]] * 2)(model, None, None)) == ["0", "1"]
    for act, sentence in (
        (lambda: rg.FeatureResponse("weight", []), "directions: got none"),
        (lambda: rg.FeatureResponse("weight", [[1.0]], ["a", "b"]), "names: got 2; allowed: 1, one a direction"),
        (
            lambda: rg.FeatureResponse("wieght", [[1.0] * 3])(model, None, None),
            "no parameter 'wieght'; did you mean 'weight'",
        ),
        (lambda: rg.FeatureResponse("weight", [[1.0]])(model, None, None), "got 1 numbers for '0'; allowed: 3"),
    ):
        with pytest.raises(rg.DeclarationError, match=sentence):
            act()


def half(model, batch):
    return (model(batch[0]) - batch[1]).square().mean() / 2


@pytest.mark.exact("ResidualOscillation")
@pytest.mark.parametrize("loss", [half, lambda m, b: nn.functional.mse_loss(m(b[0]), b[1])])
def test_residuals_that_change_sign_are_counted(loss):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    x, y = torch.randn(30, 3).double(), torch.randn(30, 2).double()
    previous = {name: p.detach() + 0.5 * torch.randn_like(p) for name, p in model.named_parameters()}
    now = model.eval()(x) - y
    before = torch.func.functional_call(model, previous, x) - y
    model.train()
    wanted = ((now > 0) != (before > 0)).double().mean().item()
    assert 0.1 < wanted < 0.9
    found = rg.ResidualOscillation()(model, loss, (x, y), previous=previous)
    assert found[""] == wanted
    factor = 1.0 if loss is half else 2.0
    assert found["size"] == pytest.approx(factor * now.abs().mean().item() / 2, rel=1e-12)  # a mean over two outputs


@pytest.mark.exact("ResidualOscillation")
@pytest.mark.parametrize(("rate", "changes"), [(0.5, 0.0), (1.5, 1.0)])
def test_a_quadratic_swings_above_the_rate_that_jumps_to_the_middle(rate, changes):
    """Residuals of w - y are multiplied by 1 - rate in every step: above 1 the sign changes."""
    work = rg.Workload(
        model=lambda: nn.Linear(1, 1, bias=False).double(),
        train=(torch.ones(4, 1).double(), torch.full((4, 1), 5.0).double()),
        loss=rg.MSE(),
    )
    regime = rg.Regime(optimizer=rg.SGD(lr=rate / 2), batch_size=4, budget="3 steps")
    probe = rg.ResidualOscillation(every="1 steps")
    found = rg.run(work, regime, seed=0, probes=[probe], progress=False)
    assert [record["residual_oscillation"] for record in found.records] == [changes] * 3


def test_the_weights_before_the_step_are_needed():
    with pytest.raises(rg.DeclarationError, match="previous: needs a value"):
        rg.ResidualOscillation()(nn.Linear(1, 1), half, (torch.ones(1, 1), torch.ones(1, 1)))
    model = nn.Linear(1, 1)
    previous = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(rg.DeclarationError, match="loss_fn: does not call the model"):
        rg.ResidualOscillation()(model, lambda m, b: m.weight.sum(), torch.ones(1, 1), previous=previous)
