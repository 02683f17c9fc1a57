"""A schedule of ours in a torch loop."""

import io
import json
import math
import warnings

import pytest
import torch

import regimes as rg
from regimes.integrations.lr_scheduler import ScheduledLR

LENGTH = 40


def optimizer(*rates, make=torch.optim.SGD, **kwargs):
    return make([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates], **kwargs)


def walk(opt, scheduler, steps):
    """Rates of all groups before each step; no warning of torch's may come."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(steps):
            assert scheduler.get_last_lr() == [group["lr"] for group in opt.param_groups]
            found.append([float(group["lr"]) for group in opt.param_groups])
            opt.step()
            scheduler.step()
    return found


SCHEDULES = [
    rg.Cosine(0.3, warmup="20%"),
    rg.WSD(0.3, warmup="4 steps", decay="0.5 epochs"),
    rg.OneCycle(0.3, inclusive=True),
    0.5 * rg.REX(0.3).sampled("5 steps"),
    rg.Linear(0.3).then(rg.Constant(0.1), "1 epoch").clip(low=0.15),
    rg.Cosine(0.3, warmup="15%", over="run"),
]


@pytest.mark.parametrize("budget", ["40 steps", "2 epochs"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Muon, rg.optim.Lion])
def test_gives_what_a_run_of_ours_gives(schedule, budget, make):
    data = (torch.zeros(160, 2), torch.zeros(160, 1))
    work = rg.Workload(model=lambda: torch.nn.Linear(2, 1), train=data, loss=rg.MSE())
    regime = rg.Regime(optimizer=rg.SGD(lr=schedule), batch_size=8, budget=budget)
    expected = [record.knobs["optimizer.lr"] for record in rg.Run(work, regime, count_flops=False)]
    opt = make([torch.zeros(2, 2, requires_grad=True)], lr=9.0)
    got = walk(opt, rg.lr_scheduler(opt, schedule, budget, steps_per_epoch=20), LENGTH)
    assert len(expected) == LENGTH
    assert [lr for (lr,) in got] == pytest.approx(expected, abs=1e-15, rel=1e-13)


def test_is_a_scheduler_of_torch_that_equals_torchs():
    one, two = optimizer(0.3), optimizer(0.3)
    mine = rg.lr_scheduler(one, rg.OneCycle(0.3, inclusive=True), "40 steps")
    theirs = torch.optim.lr_scheduler.OneCycleLR(two, 0.3, total_steps=40, cycle_momentum=False)
    assert isinstance(mine, torch.optim.lr_scheduler.LRScheduler)
    found = walk(one, mine, LENGTH)
    for t in range(LENGTH):
        assert found[t][0] == pytest.approx(two.param_groups[0]["lr"], abs=1e-12, rel=0)
        two.step()
        theirs.step() if t + 1 < LENGTH else None


def test_relative_keeps_each_group_s_own_peak():
    opt = optimizer(0.1, 0.02, 3.0)
    for t, rates in enumerate(walk(opt, rg.lr_scheduler(opt, rg.Cosine(7.0), "40 steps", relative=True), 50)):
        shape = (1 + math.cos(math.pi * min(t / 40, 1.0))) / 2
        assert rates == pytest.approx([0.1 * shape, 0.02 * shape, 3.0 * shape], rel=1e-12, abs=1e-15)


def test_relative_to_the_peak_of_a_product_is_its_first_factor():
    opt = optimizer(0.1)
    scheduler = rg.lr_scheduler(opt, rg.Cosine(2.0) * 0.5, "40 steps", relative=True)
    assert scheduler.get_last_lr() == [0.05]


def test_absolute_sets_all_groups_alike_and_refuses_to_flatten():
    opt = optimizer(0.1, 0.1)
    assert walk(opt, rg.lr_scheduler(opt, "Linear(0.5)", "4 steps"), 3) == [[0.5] * 2, [0.375] * 2, [0.25] * 2]
    with pytest.raises(rg.DeclarationError, match=r"optimizer: got groups with the rates \[0.1, 0.01\].*relative=True"):
        rg.lr_scheduler(optimizer(0.1, 0.01), rg.Cosine(0.1), "40 steps")


def test_a_group_added_later_follows_too():
    for relative, expected in ((False, [0.25, 0.25]), (True, [0.05, 0.005])):
        opt = optimizer(0.1)
        scheduler = rg.lr_scheduler(opt, rg.Linear(0.5), "4 steps", relative=relative)
        walk(opt, scheduler, 1)
        opt.add_param_group({"params": [torch.zeros(1, requires_grad=True)], "lr": 0.01})
        opt.step()
        scheduler.step()
        assert [group["lr"] for group in opt.param_groups] == pytest.approx(expected)


def test_holds_the_last_value_after_the_end_and_cuts_no_part_of_a_step():
    opt = optimizer(1.0)
    found = walk(opt, rg.lr_scheduler(opt, rg.Linear(1.0, 0.2), "2.5 epochs", steps_per_epoch=3), 10)
    assert [lr for (lr,) in found] == pytest.approx([1.0 - 0.8 * min(t / 7.5, 1.0) for t in range(10)])


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 17, 39, 41])
def test_resumes_from_plain_numbers_at_any_step(relative, stop):
    def build(rates=(0.3, 0.1) if relative else (0.3, 0.3)):
        opt = optimizer(*rates)
        return opt, rg.lr_scheduler(opt, rg.WSD(0.3, warmup="5 steps", decay="30%"), "40 steps", relative=relative)

    expected = walk(*build(), 45)
    opt, scheduler = build()
    walk(opt, scheduler, stop)
    state = scheduler.state_dict()
    assert all(type(value) in (int, float) for value in state.values())
    buffer = io.BytesIO()
    torch.save({"scheduler": state, "optimizer": opt.state_dict()}, buffer)
    saved = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    assert json.loads(json.dumps(state)) == saved["scheduler"] == state
    for with_optimizer in (False, True):
        again, scheduler = build()
        if with_optimizer:
            again.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        assert walk(again, scheduler, 45 - stop) == expected[stop:]


def test_a_scheduler_built_after_the_optimizer_s_state_was_loaded_keeps_the_own_rates():
    opt = optimizer(0.3, 0.1)
    walk(opt, rg.lr_scheduler(opt, rg.Cosine(1.0), "40 steps", relative=True), 30)
    again = optimizer(0.3, 0.1)
    again.load_state_dict(opt.state_dict())
    scheduler = rg.lr_scheduler(again, rg.Cosine(1.0), "40 steps", relative=True)
    assert scheduler.get_last_lr() == [0.3, 0.1]


def test_a_rate_that_is_a_tensor_stays_that_tensor():
    rate = torch.tensor(0.3, dtype=torch.float64)
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = rg.lr_scheduler(opt, rg.Linear(0.4), "4 steps")
    opt.step()
    scheduler.step()
    assert opt.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.3)
    other = rg.lr_scheduler(optimizer(0.1), rg.Linear(0.4), "4 steps")
    scheduler.load_state_dict(other.state_dict())
    assert opt.param_groups[0]["lr"] is rate
    assert rate.item() == 0.4


def test_a_state_of_another_schedule_or_length_is_refused():
    state = rg.lr_scheduler(optimizer(0.3), rg.Cosine(0.3), "40 steps").state_dict()
    for schedule, budget in ((rg.Cosine(0.2), "40 steps"), (rg.Cosine(0.3), "50 steps")):
        other = rg.lr_scheduler(optimizer(0.3), schedule, budget)
        with pytest.raises(rg.DeclarationError, match=r"got the state of another schedule or length \(40 steps\)"):
            other.load_state_dict(state)


REFUSALS = [
    (
        rg.Cosine(0.1),
        "2 epochs",
        {},
        "budget: got '2 epochs'; allowed: steps, or epochs together with steps_per_epoch=",
    ),
    (rg.Cosine(0.1), "9 samples", {}, "budget: got '9 samples'; allowed: steps"),
    (rg.Cosine(0.1), "5%", {}, "budget: got '5%'"),
    (
        rg.Cosine(0.1),
        40,
        {},
        "budget: got 40; allowed: steps, or epochs together with steps_per_epoch=, such as '1000 steps'$",
    ),
    (rg.Cosine(0.1), "0 steps", {}, "budget: got '0 steps'; allowed: more than nothing"),
    (rg.Cosine(0.1), "2 epochs", {"steps_per_epoch": 0}, "steps_per_epoch: got 0; allowed: an integer >= 1"),
    (rg.Cosine(0.1, warmup="1 epoch"), "9 steps", {}, "schedule.warmup: got '1 epochs'; allowed: steps, or epochs"),
    (rg.Cosine(0.1, warmup="10 steps"), "9 steps", {}, "schedule.warmup: got '10 steps', 1.111 times the stretch"),
    (rg.Linear(0.1, -0.1), "9 steps", {}, r"schedule: Linear\(0.1, final=-0.1\) at 50.1% of the stretch got -"),
    (rg.Cosine(0.1) * rg.Plateau(), "9 steps", {}, r"schedule: got a controller .*; allowed: a Schedule"),
    ("Cosin(0.1)", "9 steps", {}, "schedule: .*did you mean 'Cosine'"),
    (0.1, "9 steps", {}, "schedule: got 0.1; allowed: a Schedule"),
    (
        rg.Linear(0.0, 0.1),
        "9 steps",
        {"relative": True},
        "schedule: got .* with relative=True; allowed: a positive peak",
    ),
]


@pytest.mark.parametrize(("schedule", "budget", "more", "said"), REFUSALS)
def test_refused_with_a_sentence(schedule, budget, more, said):
    opt = optimizer(0.1)
    with pytest.raises(rg.DeclarationError, match=f"^{said}"):
        rg.lr_scheduler(opt, schedule, budget, **more)
    assert opt.param_groups[0]["lr"] == 0.1


def test_what_comes_back_is_named():
    assert type(rg.lr_scheduler(optimizer(0.1), rg.Constant(0.1), "4 steps")) is ScheduledLR
