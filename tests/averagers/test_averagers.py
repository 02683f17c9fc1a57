"""Averagers against torch.optim.swa_utils, and against means over what they should have taken."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

import regimes as rg
from regimes.core.progress import Progress
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def workload():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 4, generator=draw), torch.randint(0, 3, (48,), generator=draw)
    return rg.Workload(model=net, train=(x, y), val=(x[:16], y[:16]), loss=nn.CrossEntropyLoss())


def regime(average, steps=20, **more):
    return rg.Regime(optimizer=rg.SGD(lr=0.3), batch_size=8, average=average, budget=f"{steps} steps", **more)


def raw(steps=20):
    """The weights after each step of the run that all tests here share."""
    run = Run(workload(), regime(None, steps), seed=1)
    return [{n: p.detach().clone() for n, p in run.parameters.items()} for _ in run]


def averaged(average, steps=20):
    run = Run(workload(), regime(average, steps), seed=1)
    list(run)
    return run.judged_weights()


@pytest.mark.parametrize(
    ("average", "function"),
    [
        (rg.EMA(0.9), get_ema_multi_avg_fn(0.9)),
        (rg.EMA(), get_ema_multi_avg_fn()),
        (rg.SWA("0%", "1 steps"), get_swa_multi_avg_fn()),
        (rg.SWA("0%", "1 steps"), None),
    ],
)
def test_equals_torchs_averaged_model(average, function):
    model = net()
    twin = AveragedModel(model, multi_avg_fn=function)
    for weights in raw():
        model.load_state_dict(weights)
        twin.update_parameters(model)
    got, said = averaged(average)
    assert said == "averaged"
    for name, p in twin.module.named_parameters():
        torch.testing.assert_close(got[name], p.detach(), rtol=1e-7, atol=1e-7)
        assert isinstance(average, rg.SWA) or torch.equal(got[name], p.detach())


def mean(weights):
    return {name: torch.stack([w[name].double() for w in weights]).mean(0) for name in weights[0]}


@pytest.mark.parametrize(
    ("average", "taken"),
    [
        (rg.SWA(), [15, 16, 17, 18, 19]),
        (rg.SWA("12 steps", "3 steps"), [12, 15, 18]),
        (rg.SWA("50%", "20%"), [10, 14, 18]),
        (rg.SWA("40 samples", "28 samples"), [5, 9, 12, 16, 19]),
        (rg.LAWA(window=3, every="1 steps"), [17, 18, 19]),
        (rg.LAWA(window=3, every="25%"), [5, 10, 15]),
        (rg.LAWA(window=50, every="4 steps"), [0, 4, 8, 12, 16]),
    ],
)
def test_takes_the_weights_that_it_says(average, taken):
    weights, (got, said) = raw(), averaged(average)
    assert said == "averaged"
    for name, expected in mean([weights[step] for step in taken]).items():
        torch.testing.assert_close(got[name].double(), expected, rtol=0, atol=2e-7)


def test_before_the_start_the_raw_weights_are_judged():
    run = Run(workload(), regime(rg.SWA("50%", "1 steps")), seed=1)
    said = []
    for _ in run:
        said.append(run.judged_weights()[1])
    assert said == ["raw"] * 10 + ["averaged"] * 10


def test_batch_size_schedule_does_not_bend_the_cadence():
    """Samples are counted as they are drawn: 4, 8, 12 ... examples a step."""
    swa = rg.SWA("0 samples", "24 samples")
    state = swa.init({"w": torch.zeros(1)})
    taken, samples = [], 0
    for step in range(8):
        before = state["count"]
        at = Progress(step=step, phase_step=step, phase_samples=samples)
        state = swa.observe(state, {"weights": {"w": torch.ones(1)}}, at)
        taken.append(state["count"] - before)
        samples += 4 * (step + 1)
    assert taken == [1, 0, 0, 1, 0, 1, 1, 1]  # steps begin at 0, 4, 12, 24, 40, 60, 84, 112


@pytest.mark.parametrize("average", [rg.EMA(0.9), rg.SWA("30%", "2 steps"), rg.LAWA(window=3, every="10%")])
def test_resumes_in_the_same_bits(average):
    assert resume_chain(lambda: Run(workload(), regime(average, 12), seed=1), steps=12) == []


@pytest.mark.parametrize("average", [rg.EMA(0.5), rg.SWA("0%", "1 steps"), rg.LAWA(window=4, every="1 steps")])
def test_a_parameter_that_joins_a_carried_average_starts_at_its_own_weights(average):
    """Frozen until the seam, it has been constant: so is its part of the average."""
    freezing = rg.Regime(
        phases=[
            rg.Phase("head", budget="50%", on_entry=[rg.Freeze("0.*")]),
            rg.Phase("all", budget="50%", on_entry=[rg.Unfreeze()], carry=["model", "average"]),
        ],
        optimizer=rg.SGD(lr=0.3),
        batch_size=8,
        average=average,
        budget="6 steps",
    )
    run = Run(workload(), freezing, seed=1)
    first, seen = run.model[0].weight.detach().clone(), []
    for _ in run:
        seen.append(run.model[0].weight.detach().clone())
    got = run.judged_weights()[0]["0.weight"]
    if isinstance(average, rg.EMA):
        expected = first
        for weight in seen[3:]:
            expected = 0.5 * expected + 0.5 * weight
    else:
        expected = torch.stack(seen if isinstance(average, rg.SWA) else seen[-4:]).mean(0)
    assert torch.equal(seen[2], first)
    assert not torch.equal(seen[3], first)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.SWA(every="1 epochs"), "every: got '1 epochs'; allowed: an amount in %, steps, samples or tokens"),
        (lambda: rg.SWA(start="1e9 flops"), "start: got '1000000000 flops'; allowed"),
        (lambda: rg.LAWA(every="0 steps"), "every: got '0 steps'; allowed: more than nothing"),
        (lambda: rg.LAWA(window=0), "window: got 0; allowed: .*>= 1"),
    ],
)
def test_bad_cadences_are_refused(make, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("average", "sentence"),
    [
        (rg.SWA("20 steps", "1 steps"), "start: got '20 steps', which is the whole phase or more; allowed: less"),
        (rg.SWA("160 samples", "1 steps"), "average.start: got '160 samples', which is"),
        (rg.SWA("0%", "500 steps"), "average.every: got '500 steps', which is"),
        (rg.LAWA(4, "20 steps"), "average.every: got '20 steps', which is"),
    ],
)
def test_an_average_that_would_never_come_is_refused(average, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        Run(workload(), regime(average))
    assert sentence in str(why.value)


def test_where_units_do_not_compare_the_result_says_that_nothing_was_taken():
    found = rg.run(workload(), regime(rg.SWA("9000 tokens", "1 steps")))
    assert found.weights == "raw"
    assert found.notes == [
        "SWA(start='9000 tokens', every='1 steps') took no weights in the last phase: the trained ones were judged"
    ]
    assert rg.run(workload(), regime(rg.SWA("19 steps", "1 steps"))).notes == []
