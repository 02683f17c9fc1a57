"""AdaClip and AdaGN: closed forms, and that both before AdamW are Stable-SPAM."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.kinds import TransformContext
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain

SHAPES = {"a": (4, 3), "b": (5,), "c": ()}


def given(steps, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(s, generator=draw, dtype=torch.float64) for s in SHAPES.values()) for _ in range(steps)]


def through(transform, gradients):
    """What a transform makes of gradients, one step after another; and its state."""
    parameters = {name: torch.zeros(s, dtype=torch.float64) for name, s in SHAPES.items()}
    context, state, made = (
        TransformContext(tuple(parameters), tuple(parameters.values()), None, 1.0),
        transform.init(parameters),
        [],
    )
    for one in gradients:
        made.append(transform.apply(state, tuple(g.clone() for g in one), context))
        state = transform.observe(state, {}, None)
    return made, state


@pytest.mark.exact("AdaClip")
def test_nothing_is_clipped_while_maxima_do_not_grow():
    """At constant or falling maxima the mean is no smaller than the present one."""
    (first,) = given(1)
    falling = [tuple(g * 0.9**t for g in first) for t in range(30)]
    made, _ = through(rg.AdaClip(theta=0.8), falling)
    for got, expected in zip(made, falling, strict=True):
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-15, atol=0)


@pytest.mark.exact("AdaClip")
def test_a_spike_ends_at_the_mean_maximum_with_the_corrected_weight_of_its_own():
    """After n gradients of maximum 1, one of s is brought to (theta (1 - theta^n) + (1 - theta) s) / (1 - theta^(n+1))."""
    unit = [tuple(g / g.abs().max() for g in one) for one in given(12)]
    place = [int(g.abs().argmax()) for g in unit[11]]
    spike = tuple(g.clone() for g in unit[11])
    for g, where in zip(spike, place):
        g.view(-1)[where] *= 500.0
    made, state = through(rg.AdaClip(theta=0.9), [*unit[:11], spike])
    bound = (0.9 * (1 - 0.9**11) + 0.1 * 500.0) / (1 - 0.9**12)
    for got, one, where in zip(made[-1], unit[11], place, strict=True):
        expected = one.clone()
        expected.view(-1)[where] *= bound
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)
    for slot in state["slots"].values():
        assert slot["largest"].item() == pytest.approx(bound * (1 - 0.9**12), rel=1e-13)
        assert slot["step"] == 12


@pytest.mark.exact("AdaClip")
def test_entries_above_the_bound_keep_their_proportions():
    parameters = torch.zeros(3, dtype=torch.float64)
    context, clip = TransformContext(("w",), (parameters,), None, 1.0), rg.AdaClip(theta=0.5)
    state = clip.init({"w": parameters})
    for g in ([1.0, 1.0, 1.0], [7.0, -28.0, 0.5]):
        (got,) = clip.apply(state, (torch.tensor(g, dtype=torch.float64),), context)
        state = clip.observe(state, {}, None)
    bound = (0.25 + 0.5 * 28.0) / 0.75
    assert got.tolist() == pytest.approx([7.0, -bound, 0.5])  # 7 is below the bound of 19
    (got,) = clip.apply(state, (torch.tensor([40.0, -160.0, 80.0], dtype=torch.float64),), context)
    bound = (0.125 + 0.25 * 28.0 + 0.5 * 160.0) / 0.875
    assert got.tolist() == pytest.approx([40.0, -bound, 80.0])
    (got,) = clip.apply(state, (torch.tensor([150.0, -160.0, 80.0], dtype=torch.float64),), context)
    assert got.tolist() == pytest.approx([150.0 * bound / 160.0, -bound, 80.0])


@pytest.mark.exact("AdaGN")
def test_the_first_gradient_and_all_of_one_length_become_unit():
    """Turned in every step, of lengths that differ between tensors."""
    gradients = [tuple(7.0**place * g / g.norm() for place, g in enumerate(one)) for one in given(25)]
    made, state = through(rg.AdaGN(eps=0.0), gradients)
    for got, one in zip(made, gradients, strict=True):
        for a, g in zip(got, one, strict=True):
            torch.testing.assert_close(a, g / g.norm(), rtol=1e-13, atol=0)
    for place, slot in enumerate(state["slots"].values()):
        assert slot["norm_avg"].item() == pytest.approx(7.0**place * (1 - 0.7**25), rel=1e-13)
        assert slot["norm_avg_sq"].item() == pytest.approx(49.0**place * (1 - 0.9**25), rel=1e-13)


@pytest.mark.exact("AdaGN")
def test_rescaling_all_gradients_changes_nothing():
    gradients = given(20)
    one, _ = through(rg.AdaGN(eps=0.0), gradients)
    other, _ = through(rg.AdaGN(eps=0.0), [tuple(1e4 * g for g in given) for given in gradients])
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=0)


@pytest.mark.exact("AdaClip", "AdaGN")
def test_a_gradient_of_zero_stays_one_and_lengths_forget_nothing():
    gradients = given(6)
    with_zero = [*gradients[:3], tuple(torch.zeros_like(g) for g in gradients[0]), *gradients[3:]]
    for transform in (rg.AdaClip(), rg.AdaGN()):
        made, _ = through(transform, with_zero)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in made[3])
        assert all(bool(g.isfinite().all()) for one in made for g in one)
        from_zero, _ = through(transform, with_zero[3:])
        assert all(bool(g.isfinite().all()) for one in from_zero for g in one)
    before, after = (through(rg.AdaGN(), with_zero[:n])[1]["slots"] for n in (3, 4))
    for name in SHAPES:
        assert torch.equal(before[name]["norm_avg"], after[name]["norm_avg"])
        assert torch.equal(before[name]["norm_avg_sq"], after[name]["norm_avg_sq"])


def workload():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 4, generator=draw, dtype=torch.float64), torch.randint(0, 3, (32,), generator=draw)
    return rg.Workload(model=lambda: nn.Linear(4, 3).double(), train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss())


def run_of(optimizer, *transforms, steps=25):
    regime = rg.Regime(optimizer=optimizer, batch_size=8, budget=f"{steps} steps", grad_transforms=list(transforms))
    return Run(workload(), regime, seed=4)


@pytest.mark.exact("AdaClip", "AdaGN", "StableSPAM")
def test_before_adamw_they_are_stable_spam_without_resets():
    """In the engine, in float64: the weights and all averages."""
    whole = run_of(rg.StableSPAM(lr=0.05, theta=0.9, weight_decay=0.1))
    parts = run_of(rg.AdamW(lr=0.05, weight_decay=0.1), rg.AdaClip(theta=0.9), rg.AdaGN())
    list(whole), list(parts)
    for name, p in whole.parameters.items():
        torch.testing.assert_close(p, parts.parameters[name], rtol=0, atol=1e-12)
        slot = whole.states["optimizer"]["slots"][name]
        clipped, scaled = (parts.states[f"grad_transforms.{n}"]["slots"][name] for n in (0, 1))
        assert slot["largest"].item() == pytest.approx(clipped["largest"].item(), rel=1e-12)
        assert slot["norm_avg"].item() == pytest.approx(scaled["norm_avg"].item(), rel=1e-12)
        assert (clipped["step"], scaled["step"]) == (25, 25)


def test_both_resume_in_the_same_bits():
    make = lambda: run_of(rg.AdamW(lr=0.05), rg.AdaClip(theta=0.9), rg.AdaGN(), steps=8)  # noqa: E731
    assert resume_chain(make, steps=8) == []


@pytest.mark.parametrize("transform", [rg.AdaClip(), rg.AdaGN()])
def test_what_a_step_shows_is_learned_when_it_is_made(transform):
    """Applied twice, as where a step is taken back, the state is as it was until `observe`."""
    parameters = {"w": torch.zeros(3)}
    context, state = TransformContext(("w",), (parameters["w"],), None, 1.0), transform.init(parameters)
    transform.apply(state, (torch.tensor([900.0, 1.0, 1.0]),), context)
    assert all(float(value) == 0.0 for value in state["slots"]["w"].values())
    transform.apply(state, (torch.tensor([1.0, 0.0, 0.0]),), context)
    state = transform.observe(state, {}, None)
    fresh = transform.init(parameters)
    transform.apply(fresh, (torch.tensor([1.0, 0.0, 0.0]),), context)
    assert state == transform.observe(fresh, {}, None)
    assert state["slots"]["w"]["step"] == 1


@pytest.mark.exact("AdaClip")
def test_an_empty_tensor_is_passed_by():
    parameters = {"a": torch.zeros(0, 3), "b": torch.zeros(2)}
    context, clip = TransformContext(tuple(parameters), tuple(parameters.values()), None, 1.0), rg.AdaClip(theta=0.5)
    state = clip.init(parameters)
    for b, expected in (([1.0, 2.0], [1.0, 2.0]), ([1.0, 8.0], [1.0, 6.0])):
        empty, found = clip.apply(state, (torch.zeros(0, 3), torch.tensor(b)), context)
        state = clip.observe(state, {}, None)
        assert empty.shape == (0, 3)
        assert torch.equal(found, torch.tensor(expected))
    assert state["slots"]["a"] == {"step": 2, "largest": torch.zeros(())}
