"""States kept in few bits: against rules written out that round theirs, and what stays as it is."""

import pytest
import torch

import regimes as rg
from regimes.model_transforms.float_format import FORMATS

SHAPES = [(3, 4), (5,)]
SCALED = rg.FloatFormat(5, 2, scaled=True)


@pytest.mark.exact("RoundStates")
@pytest.mark.parametrize("format_", ["bfloat16", SCALED])
def test_adam_with_rounded_moments_written_out(hand, format_):
    """100 steps in float64; the step reads the moments before they are rounded, the next one what was kept."""
    parameters, gradients = hand.given(SHAPES, 100)
    twins = {name: p.detach().clone() for name, p in parameters.items()}
    r = (FORMATS[format_] if isinstance(format_, str) else format_).round
    hand.drive(rg.RoundStates(rg.AdamW(lr=0.01, weight_decay=0.1), format_), parameters, gradients)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in twins.items()}
    for t, given in enumerate(gradients, start=1):
        for (name, p), g in zip(twins.items(), given):
            m, v = moments[name]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            p.mul_(1 - 0.01 * 0.1).sub_(0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8))
            moments[name] = r(m), r(v)
    for name, p in parameters.items():
        torch.testing.assert_close(p.detach(), twins[name], rtol=0, atol=1e-10)


@pytest.mark.exact("RoundStates")
def test_with_the_bits_of_float64s_own_type_it_is_the_base_rule(hand):
    """Of float32 tensors, in 23 bits."""
    rounded, gradients = hand.given(SHAPES, 20, dtype=torch.float32)
    plain, _ = hand.given(SHAPES, 20, dtype=torch.float32)
    base = rg.AdamW(lr=0.01)
    hand.drive(rg.RoundStates(base, rg.FloatFormat(8, 23)), rounded, gradients)
    hand.drive(base, plain, gradients)
    for name, p in rounded.items():
        assert torch.equal(p, plain[name])


@pytest.mark.exact("RoundStates")
def test_only_the_named_states_are_rounded(hand):
    parameters, gradients = hand.given(SHAPES, 5)
    state = hand.drive(rg.RoundStates(rg.AdamW(), "bfloat16", "exp_avg"), parameters, gradients)
    for slot in state["base"]["slots"].values():
        assert torch.equal(FORMATS["bfloat16"].round(slot["exp_avg"]), slot["exp_avg"])
        assert not torch.equal(FORMATS["bfloat16"].round(slot["exp_avg_sq"]), slot["exp_avg_sq"])
        assert slot["step"] == 5


@pytest.mark.exact("RoundStates")
def test_chance_comes_from_the_steps_stream(hand):
    """The stub's generator of step n has the seed n; tensors are rounded in parameter order."""
    format_ = rg.FloatFormat(8, 2, rounding="stochastic")
    parameters, gradients = hand.given(SHAPES, 3)
    state = hand.drive(rg.RoundStates(rg.SGD(lr=0.1, momentum=0.9), format_), parameters, gradients)
    kept = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for number, given in enumerate(gradients):
        generator = torch.Generator().manual_seed(number)
        for name, g in zip(kept, given):
            b = g if number == 0 else 0.9 * kept[name] + g
            kept[name] = format_.round(b, torch.rand(b.shape, generator=generator, dtype=torch.float64))
    for name, b in kept.items():
        assert torch.equal(state["base"]["slots"][name]["momentum_buffer"], b)


def test_refusals(hand):
    with pytest.raises(rg.DeclarationError, match="updates every tensor by itself"):
        rg.RoundStates(rg.SAM(rg.SGD(lr=0.1)), "bfloat16")
    with pytest.raises(rg.DeclarationError, match="keeps weights in its state"):
        rg.RoundStates(rg.ScheduleFreeSGD(lr=0.1), "bfloat16")
    parameters, _ = hand.given(SHAPES, 1)
    with pytest.raises(rg.DeclarationError, match="allowed: exp_avg, exp_avg_sq"):
        rg.RoundStates(rg.AdamW(), "bfloat16", "moment").init(parameters)
    with pytest.raises(rg.DeclarationError, match="keeps no tensor"):
        rg.RoundStates(rg.SGD(lr=0.1), "bfloat16").init(parameters)
