"""Rounded gradients: the format's numbers, addressed chance, and that the given gradient is left alone."""

import pytest
import torch

import regimes as rg
from regimes.core.kinds import TransformContext
from regimes.engine.run import Run
from regimes.model_transforms.float_format import FORMATS
from regimes.testing.conformance import tiny


def context(n, seed=0):
    return TransformContext(
        tuple(f"p{i}" for i in range(n)), (torch.zeros(1),) * n, lambda name: torch.Generator().manual_seed(seed), 1.0
    )


def gradients():
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(s, generator=draw) * 1e-3 for s in ((3, 4), (5,), ()))


@pytest.mark.exact("RoundGradients")
@pytest.mark.parametrize("name", FORMATS)
def test_each_gradient_is_rounded_by_itself(name):
    given = gradients()
    before = [g.clone() for g in given]
    for found, g in zip(rg.RoundGradients(name).apply({}, given, context(3)), given):
        assert torch.equal(found, FORMATS[name].round(g))
    assert all(torch.equal(a, b) for a, b in zip(before, given))


@pytest.mark.exact("RoundGradients")
def test_chance_comes_from_the_steps_own_stream():
    format_ = rg.FloatFormat(8, 1, rounding="stochastic")
    rule, given = rg.RoundGradients(format_), gradients()
    generator = torch.Generator().manual_seed(7)
    wanted = [format_.round(g, torch.rand(g.shape, generator=generator, dtype=torch.float64)) for g in given]
    state = torch.get_rng_state()
    for found, value in zip(rule.apply({}, given, context(3, seed=7)), wanted):
        assert torch.equal(found, value)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.exact("RoundGradients")
def test_a_step_of_sgd_moves_by_the_rounded_gradient():
    """From zero weights and a rate of a power of two, what was moved lies in the format."""
    work = tiny.workload("values")
    regime = rg.Regime(
        optimizer=rg.SGD(lr=1.0), batch_size=6, budget="1 steps", grad_transforms=[rg.RoundGradients("e5m2")]
    )
    run = Run(work, regime, seed=0)
    with torch.no_grad():
        run.model[4].bias.zero_()
    run.step()
    moved = run.model[4].bias.detach()
    assert moved.abs().max() > 0
    assert torch.equal(FORMATS["e5m2"].round(moved), moved)
