"""Trials: they leave no trace but work and records, preview what comes, resume in the middle, and fail alone."""

import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.component import fixed
from regimes.core.kinds import Controller
from regimes.core.trial import Trial
from regimes.testing.conformance.examples import importable
from regimes.testing.resume import resume_chain

GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(48, 6, generator=GENERATOR)
Y = torch.randint(0, 3, (48,), generator=GENERATOR)


def workload(nan_at=None):
    inputs = X.clone()
    if nan_at is not None:
        inputs[nan_at] = float("nan")
    return rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)),
        train=(inputs, Y),
        val=(X[:20], Y[:20]),
        loss=nn.CrossEntropyLoss(),
    )


class Trying(Controller):
    """Before step `at`, makes one trial; otherwise a constant."""

    rate: float = fixed(0.1)
    at: int = fixed(3)
    edit: object = fixed(None)
    budget: str = fixed("4 steps")
    address: str = fixed("")
    validate_end: bool = fixed(False)
    validate_begin: bool = fixed(False)
    past_end: bool = fixed(False)
    skips: bool = fixed(False)

    def init(self):
        return {"end": None}

    def value(self, state, at):
        return self.rate

    def propose(self, state, at):
        if state["end"] is not None or at.step != self.at:
            return None
        address = (self.address,) if self.address else ()
        edit = {"": self.rate} if self.edit is None else dict(self.edit)
        return Trial(
            edit, self.budget, address, self.validate_end, self.validate_begin, past_end=self.past_end, skips=self.skips
        )

    def absorb(self, state, end):
        norms = {name: float(w.double().norm()) for name, w in end.weights.items()}
        records, before = end.records, dict(end.before)
        return {
            "end": {"records": records, "failed": end.failed, "norms": norms, "step": end.at.step, "before": before}
            | {"fraction": end.fraction}
        }


def regime(lr, **fields):
    return rg.Regime(**{"optimizer": rg.SGD(lr=lr, momentum=0.9), "batch_size": 8, "budget": "9 steps", **fields})


AWKWARD = {
    "plain": {},
    "lag and micro-batches": {"lag": 2, "micro_batch": 3},
    "averager": {"average": rg.EMA(0.5)},
    "feedback": {"sampler": rg.LossWeighted()},
    "sam": {"optimizer": lambda lr: rg.SAM(rg.AdamW(lr))},
    "selector": {"selector": rg.HighLoss(0.5), "sampler": rg.WithReplacement()},
}


def made(name, lr):
    fields = dict(AWKWARD[name])
    rule = fields.pop("optimizer", None)
    return regime(lr, **fields, **({"optimizer": rule(lr)} if rule else {}))


def finished(lr_regime, work=None):
    run = rg.Run(work or workload(), lr_regime, 0)
    return run, list(run)


def end_of(run, path="optimizer.lr"):
    return run.states["knobs"][path]["end"]


def trials(records):
    return [r for r in records if "trial" in r.signals]


@pytest.mark.parametrize("name", AWKWARD)
def test_a_trial_leaves_no_trace_but_work_and_records(name):
    path = "optimizer.base.lr" if name == "sam" else "optimizer.lr"
    plain, records = finished(made(name, 0.1))
    tried, seen = finished(made(name, Trying(edit=(("", 0.7),))))
    assert len(trials(seen)) == 4
    assert [r.signals for r in seen if "trial" not in r.signals] == [r.signals for r in records]
    assert [r.at for r in seen if "trial" not in r.signals] == [r.at for r in records]
    for ours, theirs in zip(tried.model.state_dict().values(), plain.model.state_dict().values()):
        assert torch.equal(ours, theirs)
    assert tried.work.flops == plain.work.flops
    assert tried.work.side_flops > plain.work.side_flops
    assert (tried.work.steps, tried.work.samples) == (13, 13 * 8)
    assert end_of(tried, path)["step"] == 3


@pytest.mark.parametrize("name", AWKWARD)
def test_a_trial_sees_the_batches_and_masks_that_follow(name):
    _, seen = finished(made(name, Trying()))
    again = [r for r in seen if "trial" not in r.signals][3:7]
    assert [r.loss for r in trials(seen)] == [r.loss for r in again]


def test_an_address_of_its_own_means_other_batches():
    _, seen = finished(regime(Trying(address="other")))
    again = [r for r in seen if "trial" not in r.signals][3:7]
    assert all(r.loss != s.loss for r, s in zip(trials(seen), again))


@pytest.mark.parametrize("name", AWKWARD)
def test_resume_in_the_middle_of_a_trial_is_bitwise(name):
    lr = Trying(edit=(("", rg.Linear(0.5, 0.1)),), validate_end=True) * rg.Cosine(1.0)
    found = resume_chain(lambda: rg.Run(workload(), made(name, lr), 0), 15)
    assert not found, found


def test_a_schedule_put_in_has_the_trial_for_its_stretch():
    _, seen = finished(regime(Trying(edit=(("", rg.Linear(1.0, 0.0)),))))
    assert [r.knobs["optimizer.lr"] for r in trials(seen)] == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_validation_at_the_end_is_of_the_trials_weights():
    run, _ = finished(regime(Trying(validate_end=True)))
    rows = end_of(run)["records"]
    assert ["val/loss" in row for row in rows] == [False, False, False, True]
    plain = rg.Run(workload(), regime(0.1), 0)
    for _ in range(7):
        plain.step()
    assert rows[-1]["val/loss"] == plain.validation.measure("val")["val/loss"]
    assert end_of(run)["norms"] == {n: float(w.double().norm()) for n, w in plain.model.state_dict().items()}


@pytest.mark.parametrize("judged", [{"average": rg.EMA(0.5)}, {"optimizer": rg.ScheduleFreeSGD(lr=0.1)}])
def test_its_weights_are_the_whole_network_that_a_run_would_be_judged_by(judged):
    """An averager's or a rule's evaluation weights, and the buffers, from the first step on to the trial's end."""
    declared = regime(0.1, **judged)
    rule = declared.phases[0].optimizer
    trying = declared.but({"lr": Trying(at=0, budget="9 steps")})
    alone = rg.run(workload(), declared.but({"optimizer": rule}))
    run, _ = finished(trying)
    wanted = {name: float(value.double().norm()) for name, value in alone.model.state_dict().items()}
    assert end_of(run)["norms"] == wanted
    assert {"1.running_mean", "1.num_batches_tracked"} < set(wanted)


def test_validation_at_the_beginning_is_of_the_weights_that_it_starts_from():
    run, seen = finished(regime(Trying(validate_begin=True), average=rg.EMA(0.5)))
    plain = rg.Run(workload(), regime(0.1, average=rg.EMA(0.5)), 0)
    for _ in range(3):
        plain.step()
    assert end_of(run)["before"] == plain.validation.measure("val")
    without, _ = finished(regime(Trying(), average=rg.EMA(0.5)))
    assert end_of(without)["before"] == {}
    assert run.work.side_flops > without.work.side_flops
    assert [r.loss for r in seen] == [r.loss for r in finished(regime(Trying(), average=rg.EMA(0.5)))[1]]


def test_resume_after_validation_at_the_beginning_is_bitwise():
    lr = Trying(validate_begin=True)
    found = resume_chain(lambda: rg.Run(workload(), regime(lr), 0), 9)
    assert not found, found


def test_a_step_that_is_not_finite_ends_the_trial_and_nothing_else():
    run, seen = finished(regime(Trying(edit=(("", 1e30),), budget="6 steps")))
    assert end_of(run)["failed"] == "loss"
    assert len(trials(seen)) < 6
    plain, _ = finished(regime(0.1))
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), plain.model.state_dict().values()))


@pytest.mark.parametrize("give_up", [1, 3])
def test_a_trial_that_skips_goes_on_until_a_run_would_give_up(give_up):
    """One bad example in the trial's stretch: by default its step ends the trial; a whole training skips it."""
    bad = int(rg.Run(workload(), regime(0.1), 0).frame.plans[0].indices[0])
    for skips in (False, True):
        run = rg.Run(workload(nan_at=bad), regime(Trying(at=0, budget="5 steps", skips=skips)), 0, give_up=give_up)
        rows = []
        while run.frame.trial is not None or not rows:
            rows.append(run.step().signals)
        whole = skips and give_up > 1
        assert (len(rows), "skipped" in rows[0]) == (5 if whole else 1, True)
        assert (end_of(run)["failed"], end_of(run)["fraction"]) == ((None, 1.0) if whole else ("loss", 0.2))


def test_how_much_of_its_budget_it_used():
    found = {}
    for budget, at, past_end in (("6 steps", 7, False), ("6 steps", 7, True), ("20 samples", 0, False)):
        lr = Trying(budget=budget, at=at, past_end=past_end)
        found[budget, past_end] = end_of(finished(regime(lr))[0])["fraction"]
    assert found == {("6 steps", False): 1 / 3, ("6 steps", True): 1.0, ("20 samples", False): 3 / 2.5}


def test_a_trial_longer_than_its_phase_is_refused_before_anything_is_spent():
    with pytest.raises(rg.DeclarationError, match=r"a trial of optimizer\.lr\.budget: got '100 steps'; .*'9 steps'"):
        rg.Run(workload(), regime(rg.RangeTest(1e-3, 1.0)), 0)


def test_a_length_that_the_phase_cannot_count_is_refused_before_anything_is_spent():
    cursor = rg.CyclicalCurriculum(scoring="6 samples")  # it may come late: here after a trial of the rate's
    declared = regime(rg.RangeTest(1e-3, 1.0, budget="2 steps"), sampler=cursor, batch_size=rg.Linear(4, final=8))
    with pytest.raises(rg.DeclarationError, match=r"^sampler\.scoring: got '6 samples' where the budget is '9 steps'"):
        rg.Run(workload(), declared, 0)


def test_a_trial_ends_with_the_phase_or_goes_on_past_its_end():
    plain, _ = finished(regime(0.1))
    for past_end, steps in ((False, 2), (True, 6)):
        run, seen = finished(regime(Trying(budget="6 steps", at=7, past_end=past_end)))
        assert (len(trials(seen)), len(seen) - len(trials(seen)), run.frame.step) == (steps, 9, 9)
        for ours, theirs in zip(run.model.state_dict().values(), plain.model.state_dict().values()):
            assert torch.equal(ours, theirs)


def test_data_edits_are_drawn_anew():
    work = rg.Workload(
        model=lambda: nn.Linear(6, 3), train={"a": (X[:24], Y[:24]), "b": (X[24:], Y[24:])}, loss=nn.CrossEntropyLoss()
    )
    lr = Trying(edit=(("/mixture", rg.Mixture(b=1.0)), ("", 0.1)), at=2)
    run = rg.Run(work, regime(lr, mixture=rg.Mixture(a=1.0), lag=1), 0)
    seen = []
    while not run.finished:
        position = run.frame.step
        run.step()
        seen.append((position, {int(s) for plan in run.frame.plans for s in plan.sources}, run.frame.trial is None))
    assert [sources for _, sources, outside in seen if not outside] == [{1}] * 3
    assert all(sources == {0} for _, sources, outside in seen if outside and sources)


def test_work_of_a_trial_is_part_of_a_budget_in_flops():
    one = finished(regime(0.1, budget="1 steps"))[0].work.flops
    budget = f"{9.5 * one:.0f} flops"
    plain, _ = finished(regime(0.1, budget=budget))
    tried, seen = finished(regime(Trying(budget=f"{2.5 * one:.0f} flops"), budget=budget))
    assert plain.frame.step == 10
    assert (len(trials(seen)), tried.frame.step) == (3, 7)


def test_a_wrong_edit_is_refused_with_its_path():
    with pytest.raises(rg.DeclarationError, match=r"a trial of optimizer\.lr.*momentun"):
        finished(regime(Trying(edit=(("/optimizer.momentun", 0.5),))))
    with pytest.raises(rg.DeclarationError, match=r"a trial of optimizer\.lr\.budget: got '0 steps'"):
        finished(regime(Trying(budget="0 steps")))


def test_results_keep_the_records_of_trials_apart(tmp_path):
    result = rg.run(workload(), regime(rg.RangeTest(1e-3, 1.0, budget="5 steps")), out=tmp_path / "r")
    again = rg.run(workload(), regime(rg.RangeTest(1e-3, 1.0, budget="5 steps")))
    assert (len(result.records), len(result.trial_records)) == (9, 5)
    assert result.metrics == again.metrics
    assert {row["trial"] for row in result.trial_records} == {"optimizer.lr"}


def test_killed_inside_a_trial_it_ends_in_the_same_bytes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time, torch
            import regimes as rg
            def slow(model, batch):
                time.sleep(0.01)
                return torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
            x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
            work = rg.Workload(model=lambda: torch.nn.Linear(6, 3), train=(x, (x[:, 0] > 0).long()), loss=slow)
            lr = rg.RangeTest(1e-3, 1.0, budget="60 steps")
            rg.run(work, rg.Regime(optimizer=rg.AdamW(lr), batch_size=8, budget="80 steps"), out=sys.argv[1],
                   checkpoint="4 steps", progress=False)
            """
        )
    )

    def start(folder):
        return subprocess.Popen([sys.executable, script, tmp_path / folder])

    assert start("whole").wait() == 0
    process = start("killed")
    checkpoints = tmp_path / "killed" / "checkpoints"
    while not (checkpoints.is_dir() and any(p.name >= "step-0000000024" for p in checkpoints.iterdir())):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    state = max(p for p in checkpoints.iterdir() if not p.name.startswith(".")) / "state.json"
    assert len(json.loads(state.read_text())["tree"]["run"]["frames"]) == 2
    assert start("killed").wait() == 0
    for name in ("final/model.safetensors", "records.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class Looking(rg.Reshuffle):
    """Asks once for the losses of all that it draws from, and keeps them."""

    def init(self, view):
        return {"scores": None}

    def propose(self, state, at):
        return Trial({}, "0 steps", score=True) if state["scores"] is None else None

    def absorb(self, state, end):
        return {"scores": dict(end.scores)}


@pytest.mark.parametrize("inside", [False, True])
def test_a_look_scores_the_present_weights_without_a_step_outside_and_inside_a_trial(inside):
    parts = {"a": (X[:24], Y[:24]), "b": (X[24:], Y[24:])}
    work = rg.Workload(model=lambda: nn.Linear(6, 3), train=parts, loss=nn.CrossEntropyLoss())
    looking = rg.Mixture(b=1.0, sampler=Looking())
    lr = Trying(edit=(("", 0.1), ("/mixture", looking)), at=0)
    run = rg.Run(work, regime(lr, mixture=rg.Mixture(a=1.0)) if inside else regime(0.1, mixture=looking), 0)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(run.model(X[24:]), Y[24:], reduction="none")
    with importable(Looking):
        record = run.step()
    found = run.states["mixture"]["sources"]["b"]["scores"]
    assert list(found) == ["b"]  # only what is drawn from
    torch.testing.assert_close(found["b"].float(), losses)
    assert (record.at.step, "trial" in record.signals, run.frame.step) == (0, inside, 1)
    plain = rg.Run(work, regime(0.1, mixture=rg.Mixture(b=1.0)), 0)
    assert record.loss == plain.step().loss
    assert run.work.side_flops > (plain.work.flops if inside else 0)  # the look is charged
