"""Two roundings of one weight: exhaustive on int8, gradients by hand, joint training, and rates of steps by width."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms import at_width
from regimes.model_transforms.rounding import DoubleRound, double_rounded, first_rounding, second_rounding
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain

ALL = torch.arange(-128, 128, dtype=torch.int64)


def to_even(value):
    """Python's own rounding: halves to the even neighbor."""
    return round(value)


# -- the numbers --------------------------------------------------------------------------------------------


@pytest.mark.exact("DoubleRounding")
@pytest.mark.parametrize("low", [8, 7, 6, 5, 4, 3, 2])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
def test_shifts_are_the_formula_on_all_256_integers(low, dtype):
    found = second_rounding(ALL.to(dtype), 8, low)
    assert found.dtype == dtype
    bounds = -(2 ** (low - 1)), 2 ** (low - 1) - 1
    assert found.tolist() == [min(max(to_even(q / 2 ** (8 - low)), bounds[0]), bounds[1]) for q in ALL.tolist()]
    step = torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(double_rounded(ALL.double(), step, 8, low), found.double() * 2 ** (8 - low))


@pytest.mark.exact("DoubleRounding")
def test_sixteen_bits_go_to_fewer_by_the_same_shifts():
    q = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    for low in (16, 12, 8, 5, 2):
        expected = (q.double() / 2 ** (16 - low)).round().clamp(-(2 ** (low - 1)), 2 ** (low - 1) - 1)
        assert torch.equal(second_rounding(q, 16, low).double(), expected)


@pytest.mark.exact("DoubleRounding")
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_at_the_highest_width_it_is_ordinary_quantization(bits):
    w = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = torch.tensor(0.05, dtype=torch.float64)
    expected = torch.fake_quantize_per_tensor_affine(
        w.float(), 0.05, 0, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    ).double()
    torch.testing.assert_close(double_rounded(w, step, bits, bits), expected, rtol=1e-6, atol=0)


@pytest.mark.exact("DoubleRounding")
@pytest.mark.parametrize("low", [7, 5, 3, 2])
def test_the_second_rounding_moves_a_weight_by_half_a_step_at_most(low):
    """Away from clipping; the bound is reached."""
    s, coarse = 0.25, 0.25 * 2 ** (8 - low)
    top = (2 ** (low - 1) - 1) * 2 ** (8 - low)
    inside = ALL[(ALL >= -128) & (top >= ALL)].double()
    step = torch.tensor(s, dtype=torch.float64)
    moved = (double_rounded(inside * s, step, 8, low) - inside * s).abs()
    assert moved.max().item() == coarse / 2


@pytest.mark.exact("DoubleRounding")
def test_integers_and_step_are_all_that_is_stored():
    w = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    one = DoubleRound((8, 6, 4, 2), w)
    one.fit(w)
    q = one.integers(w)
    assert q.dtype == torch.int8
    assert q.abs().max() == 127
    for bits in (8, 6, 4, 2):
        one.width = bits
        again = second_rounding(q, 8, bits).float() * (one.step_size * 2 ** (8 - bits))
        assert torch.equal(one(w), again)
    assert torch.equal(first_rounding(w, one.step_size, 8).to(torch.int8), q)


@pytest.mark.exact("DoubleRounding")
@pytest.mark.parametrize("low", [8, 4, 2])
def test_gradients_are_lsqs_entry_by_entry(low):
    s, k = 0.1, 8 - low
    w = torch.tensor([-30.0, -6.01, -3.3, -0.26, 0.0, 0.04, 2.51, 5.9, 13.0, 40.0], dtype=torch.float64)
    leaf, step = w.clone().requires_grad_(), torch.tensor(s, dtype=torch.float64, requires_grad=True)
    bounds = -(2 ** (low - 1)), 2 ** (low - 1) - 1
    for i, value in enumerate(w.tolist()):
        by_weight, by_step = torch.autograd.grad(double_rounded(leaf, step, 8, low)[i], [leaf, step])
        first = to_even(value / s)
        q = to_even(min(max(first, -128), 127) / 2**k)
        inside = -128 <= first <= 127 and bounds[0] <= q <= bounds[1]
        clipped = min(max(q, bounds[0]), bounds[1]) * 2**k
        assert by_weight.tolist() == [float(inside) if j == i else 0.0 for j in range(len(w))]
        assert by_step.item() == pytest.approx(clipped - value / s if inside else clipped, rel=1e-12, abs=1e-12)


@pytest.mark.exact("DoubleRounding")
def test_the_steps_gradient_is_scaled_by_entries_and_largest_integer():
    w = torch.randn(12, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    up = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one = DoubleRound((8, 3), w)
    one.fit(w)
    for one.width, largest in ((8, 127), (3, 3)):
        (found,) = torch.autograd.grad((one(w) * up).sum(), [one.step_size])
        (plain,) = torch.autograd.grad((double_rounded(w, one.step_size, 8, one.width) * up).sum(), [one.step_size])
        assert found.item() == pytest.approx(plain.item() / math.sqrt(60 * largest), rel=1e-12)


# -- in a model ---------------------------------------------------------------------------------------------


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Tanh(), nn.Linear(12, 5), nn.LayerNorm(5), nn.Linear(5, 3)
    )


def rounded(bits=(8, 4, 2), by_width=False, patterns=("*.weight",), dtype=torch.float64):
    before = net().to(dtype)
    transform = rg.DoubleRounding(patterns, bits=bits, by_width=by_width)
    model = transform.structure(copy.deepcopy(before))
    return model, before, transform.fill(model, before, iter(()), Streams(0))


@pytest.mark.exact("DoubleRounding")
def test_matrices_and_kernels_are_rounded_and_nothing_else():
    model, before, result = rounded()
    assert {place for place, module in model.named_modules() if parametrize.is_parametrized(module)} == {"0", "3", "5"}
    assert result.names["3.parametrizations.weight.original"] == "3.weight"
    assert result.names["3.parametrizations.weight.0.step_size"] is None
    assert result.names["4.weight"] == "4.weight"
    for place in (0, 3, 5):
        holder = model[place].parametrizations.weight
        assert torch.equal(holder.original, before[place].weight)
        assert holder[0].step_size.item() == before[place].weight.abs().max().item() / 127
        with at_width(model, 4):
            q = second_rounding(holder[0].integers(holder.original), 8, 4)
            assert torch.equal(model[place].weight, q.double() * holder[0].step_size * 16)
            assert len(model[place].weight.unique()) <= 16
    apart = [(model[3].weight - before[3].weight).abs().max().item()]
    assert 0.0 < apart[0] <= 0.5 * model[3].parametrizations.weight[0].step_size.item() * (1 + 1e-12)


@pytest.mark.exact("JointWidths")
def test_the_joint_loss_is_the_sum_over_widths_with_its_gradients():
    model, _, _ = rounded()
    x = torch.randn(6, 1, 3, 3, dtype=torch.float64)
    batch = (x, torch.randint(0, 3, (6,), generator=torch.Generator().manual_seed(0)))
    found = rg.JointWidths()(model, batch).values
    parts = []
    for bits in (8, 4, 2):
        with at_width(model, bits):
            parts.append(nn.functional.cross_entropy(model(x), batch[1], reduction="none"))
    torch.testing.assert_close(found, parts[0] + parts[1] + parts[2], rtol=1e-14, atol=0)
    assert not torch.equal(parts[0], parts[2])
    leaves = list(model.parameters())
    ours = torch.autograd.grad(found.sum(), leaves)
    theirs = [torch.autograd.grad(part.sum(), leaves, allow_unused=True) for part in parts]
    for place, g in enumerate(ours):
        torch.testing.assert_close(g, sum(one[place] for one in theirs), rtol=1e-10, atol=1e-12)
    assert [module.width for module in model.modules() if isinstance(module, DoubleRound)] == [8, 8, 8]


def test_a_width_is_put_back_after_an_exception():
    model, _, _ = rounded()
    with pytest.raises(KeyError), at_width(model, 2):
        raise KeyError
    assert {module.width for module in model.modules() if isinstance(module, DoubleRound)} == {8}


def test_joint_training_through_a_run_and_resume():
    phases = [
        rg.Phase("whole", budget="4 steps", optimizer=rg.SGD(lr=0.1, momentum=0.9)),
        rg.Phase(
            "rounded",
            budget="6 steps",
            optimizer=rg.ALRS(rg.SGD(lr=0.1, momentum=0.9), bits=(8, 3)),
            loss=rg.JointWidths(),
            on_entry=[rg.DoubleRounding("*.weight", bits=(8, 3), by_width=True)],
        ),
    ]
    regime = rg.Regime(phases=phases, batch_size=6)
    assert resume_chain(lambda: Run(tiny.workload("classes"), regime, seed=2), steps=10) == []
    run = Run(tiny.workload("classes"), regime, seed=2)
    records = list(run)
    named = dict(run.model.named_parameters())
    steps = {name: p for name, p in named.items() if name.endswith("step_size")}
    assert len(steps) == 2
    for name, p in steps.items():
        assert torch.equal(named[name.replace("step_size", "step_taps")], torch.zeros(2))
        weight = named[name.replace("0.step_size", "original")]
        assert p.item() != (weight.abs().max() / 127).item()
    assert all(any(name.endswith(own) for name in records[-1].signals) for own in ("factor_8", "factor_3"))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.wte.weight


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.DoubleRounding(()), "patterns: got no pattern"),
        (lambda: rg.DoubleRounding("*", bits=(4, 8)), r"bits: got \[4, 8\]; allowed: falling widths"),
        (lambda: rg.DoubleRounding("*", bits=(8, 8)), r"bits: got \[8, 8\]; allowed: falling widths"),
        (lambda: rg.DoubleRounding("*", bits=(8, 1)), "bits.*got 1"),
        (lambda: rg.DoubleRounding("*.bias").structure(net()), r"patterns: got .*, which match no matrix"),
        (lambda: rg.DoubleRounding("*.weight").structure(Tied()), "which two modules share; leave it out"),
        (lambda: rg.DoubleRounding("*").structure(rounded()[0]), "of which another weight is made already"),
        (lambda: rg.JointWidths()(net(), (None, None)), "the model has no weights of several bit widths"),
        (lambda: at_width(rounded()[0], 3).__enter__(), "bits: got 3 bits; allowed: 8, 4, 2"),
        (lambda: rg.ALRS(rg.SAM(rg.SGD())), "base: SAM evaluates more than once"),
        (lambda: rg.ALRS(rg.SGD()).init(dict(net().named_parameters())), "no weight of the model has steps by width"),
        (
            lambda: rg.ALRS(rg.SGD()).init(dict(rounded(by_width=True)[0].named_parameters())),
            r"bits: got \[8, 6, 4, 2\], but the weights have 3 widths",
        ),
    ],
)
def test_what_does_not_fit_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()


# -- ALRS ---------------------------------------------------------------------------------------------------


def batch(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(6, 1, 3, 3, generator=g, dtype=torch.float64), torch.randint(0, 3, (6,), generator=g)


def by_step(model, bits, x, y):
    """Losses' gradients at one width, by parameter name, of a model without taps."""
    with at_width(model, bits):
        loss = nn.functional.cross_entropy(model(x), y)
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values()))))


@pytest.mark.exact("ALRS")
@pytest.mark.parametrize(
    "base",
    [
        pytest.param(rg.SGD(lr=0.005), id="SGD", marks=pytest.mark.slow),
        pytest.param(rg.SGD(lr=0.002, momentum=0.9), id="momentum", marks=pytest.mark.slow),
        pytest.param(rg.AdamW(lr=0.005), id="AdamW"),
    ],
)
def test_a_plain_twin_makes_the_same_steps(base):
    """100 steps: widths apart, steps without taps, the formula written out."""
    model, twin = rounded(by_width=True)[0], rounded()[0]
    rule, named, others = rg.ALRS(base, bits=(8, 4, 2)), dict(model.named_parameters()), dict(twin.named_parameters())
    state, slots = rule.init(named), {name: base.slots(p) for name, p in others.items()}
    steps = [name for name in others if name.endswith("step_size")]
    seen = []
    for t in range(1, 101):
        x, y = batch(t)
        parts = {bits: by_step(twin, bits, x, y) for bits in (8, 4, 2)}
        factor = {
            bits: 0.1 ** ((8 - bits) / 2) * (1 - sum(min(abs(part[name].item()), 1.0) for name in steps) / len(steps))
            for bits, part in parts.items()
        }
        seen.append(factor)
        for name, p in others.items():
            weights = factor if name in steps else dict.fromkeys(parts, 1.0)
            base.update(p.data, sum(weights[bits] * part[name] for bits, part in parts.items()), slots[name], t)
        loss = rg.JointWidths()(model, (x, y)).values.mean()
        gradients = torch.autograd.grad(loss, list(named.values()))
        state = rule.step(state, named, _Evaluate(gradients))
    for name, p in others.items():
        torch.testing.assert_close(named[name], p, rtol=0, atol=1e-10)
    assert all(not p.any() for name, p in named.items() if name.endswith("step_taps"))
    assert max(one[8] for one in seen) < 1.0


class _Evaluate:
    compiled = False

    def __init__(self, gradients):
        from regimes.engine.evaluator import Evaluation

        self.evaluation = Evaluation(0.0, tuple(gradients))

    def __call__(self):
        return self.evaluation

    def log(self, name, value):
        pass


@pytest.mark.exact("ALRS")
def test_small_gradients_leave_the_powers_of_ten_and_large_ones_nothing():
    rule = rg.ALRS(rg.SGD())
    assert rule.factors(torch.zeros(3, 4)) == pytest.approx([1.0, 0.1, 0.01, 0.001], rel=1e-14)
    assert rule.factors(torch.full((3, 4), -7.0)) == [0.0, 0.0, 0.0, 0.0]
    gradients = [[0.5, 3.0, 0.0, -0.2], [0.1, 0.0, 0.0, 0.4]]
    one = rg.ALRS(rg.SGD(), decay=1.0).factors(torch.tensor(gradients, dtype=torch.float64))
    assert one == pytest.approx([1 - 0.3, 1 - 0.5, 1.0, 1 - 0.3], rel=1e-14)


@pytest.mark.exact("ALRS")
def test_taps_have_the_gradients_of_the_step_by_width():
    model, twin = rounded(by_width=True)[0], rounded()[0]
    x, y = batch(0)
    named = dict(model.named_parameters())
    found = dict(zip(named, torch.autograd.grad(rg.JointWidths()(model, (x, y)).values.mean(), list(named.values()))))
    for place, bits in enumerate((8, 4, 2)):
        for name, g in by_step(twin, bits, x, y).items():
            if name.endswith("step_size"):
                tap = found[name.replace("step_size", "step_taps")][place].item()
                assert tap == pytest.approx(g.item(), rel=1e-10, abs=1e-14)
