"""A replica of a stack is as the run alone: plans and knobs to the bit, weights to rounding; what cannot be is refused."""

import json
import os
import signal
from collections import deque

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import Interrupted, RunFailed
from regimes.engine import memory, sessions, stackable
from regimes.engine.api import Session
from regimes.engine.folder import Locked
from regimes.engine.replicas import Stack
from regimes.engine.run import Run
from regimes.engine.stackable import Unstackable, why_not
from regimes.engine.stacked_forward import StackedForward
from regimes.engine.together import Together
from regimes.testing.conformance.stacking import differences
from regimes.testing.conformance.tiny import one_thread


def data(seed, n=96):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def work(model, loss=None):
    return rg.Workload(model=model, train=data(0), val=data(1), loss=loss or rg.CrossEntropy())


def net():
    """Batch statistics, dropout; the bias before the norm is left out: its gradient is rounding."""
    layers = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.2), nn.Linear(8, 2)
    return nn.Sequential(*layers).double()


def plain():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double()


@pytest.fixture(autouse=True)
def _one_thread():
    """On tensors this small several threads only wait for each other."""
    with one_thread():
        yield


NET, PLAIN = work(net), work(plain)
BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-2, warmup="5%")), batch_size=16, budget="200 steps")
#: One form, and else as different as can be.
VARIANTS = (
    BASE,
    BASE.but({"optimizer.lr.peak": 3e-3}),
    BASE.but(optimizer=rg.AdamW(lr=rg.WSD(2e-2), weight_decay=0.1)),
    BASE.but(optimizer=rg.SGD(lr=0.05, momentum=0.9), sampler=rg.LossWeighted()),
    BASE.but(optimizer=rg.Lion(lr=rg.Linear(1e-3)), grad_transforms=[rg.ClipNorm(0.5)], average=rg.EMA(0.9)),
)


def made(workload, regimes=VARIANTS):
    return [Run(workload, regime, seed) for seed, regime in enumerate(regimes)]


def stepped(runs, **options):
    """Step all to their ends; return the records of each, or what it raised."""
    together, found = Together(runs), {id(run): [] for run in runs}
    while together.running:
        for run, records in list(together.steps(**options)):
            if isinstance(records, BaseException):
                found[id(run)].append(records)
                together.drop(run)
            else:
                found[id(run)] += records
    return [found[id(run)] for run in runs], together


def as_alone(runs, alone):
    """Whether runs have ended as the others do, which are stepped to their ends."""
    for other in alone:
        while not other.finished:
            other.step()
    return [differences(run.tree(), other.tree()) for run, other in zip(runs, alone)] == [[]] * len(runs)


@pytest.mark.parametrize("workload", [PLAIN, NET], ids=["plain", "norm and dropout"])
def test_two_hundred_steps_are_those_of_each_run_alone(workload):
    runs, alone = made(workload), made(workload)
    found, together = stepped(runs)
    assert together.reasons == []
    for run, other, records in zip(runs, alone, found):
        expected = [other.step() for _ in range(200)]
        assert [(r.at, r.phase, r.knobs) for r in records] == [(r.at, r.phase, r.knobs) for r in expected]
        assert differences(run.tree(), other.tree()) == []
        assert max(abs(r.loss - e.loss) for r, e in zip(records, expected)) < 1e-10


@pytest.mark.parametrize("workload", [PLAIN, NET], ids=["plain", "norm and dropout"])
def test_bursts_are_single_steps_to_the_bit(workload):
    regimes = [BASE, BASE.but({"optimizer.lr.peak": 3e-3}), BASE.but(batch_size=16, lag=2)]
    bursts, singles = made(workload, regimes), made(workload, regimes)
    (some, _), (others, _) = stepped(bursts), stepped(singles, most=1)
    assert some == others
    for run, other in zip(bursts, singles):
        assert all(map(torch.equal, run.model.state_dict().values(), other.model.state_dict().values()))
        assert run.work == other.work


def test_runs_are_stacked_anew_where_a_phase_begins_and_go_on_alone_when_they_are_left():
    two = rg.Regime(
        phases=[rg.Phase("a", budget="50%"), rg.Phase("b", budget="50%", on_entry=[rg.Freeze("0.*")])],
        optimizer=rg.SGD(lr=0.1), batch_size=16, budget="20 steps",
    )  # fmt: skip
    regimes = [two, two, two.but(budget="30 steps")]
    runs, alone = made(PLAIN, regimes), made(PLAIN, regimes)
    _, together = stepped(runs)
    assert set(together.reasons) == {"no other run has its form"}  # the longest, when the others have ended
    assert as_alone(runs, alone)
    storages = {p.untyped_storage().data_ptr() for run in runs for p in run.trained}
    assert len(storages) == sum(len(run.trained) for run in runs)  # nobody keeps the others' memory


def test_a_replica_that_diverges_is_recorded_and_the_others_go_on():
    regimes = [BASE, BASE.but(optimizer=rg.SGD(lr=1e308)), BASE.but({"optimizer.lr.peak": 3e-3})]
    runs, alone = made(PLAIN, regimes), made(PLAIN, regimes)
    found, _ = stepped(runs)
    assert isinstance(found[1][-1], RunFailed)
    assert all("skipped" in record.signals for record in found[1][-10:-1])
    for place in (0, 2):
        while not alone[place].finished:
            alone[place].step()
        assert len(found[place]) == 200
        assert differences(runs[place].tree(), alone[place].tree()) == []


def test_where_batches_differ_in_size_each_is_evaluated_alone():
    regimes = [
        BASE,
        BASE.but(batch_size=rg.Step(8, milestones=["50%"], factor=2.0)),
        BASE.but(batch_size=16, micro_batch=4),
    ]
    runs, alone = (
        made(PLAIN, [r.but(budget="20 steps") for r in regimes]),
        made(PLAIN, [r.but(budget="20 steps") for r in regimes]),
    )
    stepped(runs)
    assert as_alone(runs, alone)


def test_inputs_may_be_nested():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2).double()

        def forward(self, pair):
            return self.layer(pair["left"] - pair["right"])

    x, y = data(0)
    pairs = [({"left": x[i], "right": x[-1 - i]}, y[i]) for i in range(len(x))]
    workload = rg.Workload(model=Two, train=pairs, val=pairs, loss=rg.CrossEntropy())
    regimes = [BASE.but(budget="10 steps")] * 3
    runs, alone = made(workload, regimes), made(workload, regimes)
    _, together = stepped(runs)
    assert together.reasons == []
    assert as_alone(runs, alone)


class Scaled(nn.Module):
    """Two models of one printed form that compute something else."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2).double()
        self.scale = torch.rand(1).item()

    def forward(self, x):
        return self.layer(x) * self.scale


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2).double()

    def forward(self, x):
        return self.layer(x + torch.randn_like(x))


class Counting(nn.Module):
    """Looks at values, which no batched forward can."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2).double()

    def forward(self, x):
        out = self.layer(x)
        return out if out.sum().item() > 0 else -out


class Keeping(nn.Module):
    """Keeps something from step to step, which has an effect from the tenth forward on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2).double()
        self.register_buffer("n", torch.zeros(()))
        self.seen, self.places = deque(), {"calls": [0]}

    def forward(self, x):
        if self.training:
            self.keep(x)
        return self.layer(x) * torch.where(self.n > 10, 0.2, 1.0)

    def keep(self, x):
        raise NotImplementedError


class Adding(Keeping):
    def keep(self, x):
        self.n += 1


class Replacing(Keeping):
    def keep(self, x):
        self.n = self.n + 1


class Averaging(Keeping):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6).double())

    def keep(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)


class Queueing(Keeping):
    def keep(self, x):
        self.seen.append(0)


class Nested(Keeping):
    def keep(self, x):
        self.places["calls"][0] += 1


class Telling(Keeping):
    def keep(self, x):
        pass

    def get_extra_state(self):
        return 1

    def set_extra_state(self, state):
        pass


class Permuting(Keeping):
    """A place to each number of its own, behind a weight that is zero at first."""

    def __init__(self):
        super().__init__()
        self.order, self.gate = torch.randperm(6).tolist(), nn.Parameter(torch.zeros(()).double())

    def forward(self, x):
        return self.layer(x + self.gate * x[:, self.order].tanh())


@pytest.mark.parametrize(
    ("workload", "regime", "why"),
    [
        (work(Adding), BASE, "buffer 'n'"),
        (work(Replacing), BASE, "buffer 'n'"),
        (work(Averaging), BASE, "buffer 'mean'"),
        (work(Telling), BASE, "get_extra_state"),
        (work(Permuting), BASE, "what their models keep in 'order' differs"),
        (PLAIN, BASE.but(optimizer=rg.SAM(rg.SGD(lr=0.1))), "SAM evaluates more than once"),
        (PLAIN, BASE.but(selector=rg.HighLoss(0.5)), "HighLoss looks at the losses before the step"),
        (PLAIN, BASE.but(micro_batch="auto"), "micro_batch='auto' may halve it alone"),
        (work(plain, lambda model, batch: model(batch[0]).square().sum(1)), BASE, "is no function of the model's output"),
        (work(Scaled), BASE, "what their models keep in 'scale' differs"),
        (work(Noisy), BASE, "random operation"),
        (work(Counting), BASE, "does not go through torch.func.vmap"),
    ],
)  # fmt: skip
def test_what_cannot_be_stacked_says_why_and_is_as_before(workload, regime, why):
    runs, alone = made(workload, [regime] * 2), made(workload, [regime] * 2)
    before = [run.tree() for run in runs]
    with pytest.raises(Unstackable, match=why):
        Stack(runs)
    assert [differences(run.tree(), tree) for run, tree in zip(runs, before)] == [[], []]
    _, together = stepped(runs)
    assert why in together.reasons[0]
    for run, other in zip(runs, alone):
        while not other.finished:
            other.step()
        assert all(map(torch.equal, run.trained, other.trained))


class Tempered(nn.Module):
    """A parameter of no dimension, and a linear layer with a parametrization."""

    def __init__(self):
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 2).double())
        self.scale = nn.Parameter(torch.ones(()).double())

    def forward(self, x):
        return self.layer(x) * self.scale


@pytest.mark.parametrize(("model", "why"), [(Queueing, "changes 'seen'"), (Nested, "changes 'places'")])
def test_what_a_forward_keeps_in_python_is_not_stacked(model, why):
    with pytest.raises(Unstackable, match=why):
        Stack(made(work(model), [BASE] * 2))


def test_scalars_and_parametrizations_are_stacked():
    regimes = [BASE.but(budget="20 steps"), BASE.but({"budget": "20 steps", "optimizer.lr.peak": 3e-3})]
    runs, alone = made(work(Tempered), regimes), made(work(Tempered), regimes)
    _, together = stepped(runs)
    assert together.reasons == []
    assert as_alone(runs, alone)


def test_runs_of_another_batch_size_are_a_stack_of_their_own():
    regimes = [BASE, BASE.but(batch_size=8), BASE, BASE.but(batch_size=8), BASE.but(batch_size=5)]
    together = Together(made(PLAIN, regimes))
    assert sorted(len(stack.runs) for stack in together.stacks) == [2, 2]
    assert together.reasons == ["no other run has its form"]


def test_models_of_other_forms_are_refused_together():
    runs = [Run(PLAIN, BASE, 0), Run(NET, BASE, 1)]
    assert [why_not(run) for run in runs] == [None, None]
    with pytest.raises(
        Unstackable, match="their models, what is trained of them, their precision or their batch sizes differ"
    ):
        Stack(runs)


def test_tied_frozen_and_named():
    """Tied weights are one leaf, frozen ones none, inputs by name are mapped, what is no tensor is the same for all."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight
            self.last = nn.Linear(3, 1).requires_grad_(False)

        def forward(self, x, *, shift, power):
            return self.last(self.two(torch.tanh(self.one(x)) + shift) ** power)

    models = [Tied() for _ in range(3)]
    rows = {
        n: torch.stack([dict(m.named_parameters())[n].detach() for m in models])
        for n, _ in models[0].named_parameters()
    }
    rows["one.weight"].requires_grad_()
    x, shift = torch.randn(3, 5, 3), torch.randn(3, 5, 3)
    forward, inputs = StackedForward(models, rows), ((x,), {"shift": shift, "power": 2})
    out = forward.outputs(*inputs, *forward.drawn(*inputs, list))
    [g] = torch.autograd.grad(out.sum(), [rows["one.weight"]])
    for place, model in enumerate(models):
        alone = model(x[place], shift=shift[place], power=2)
        assert torch.allclose(out[place], alone, atol=1e-6)
        assert torch.allclose(g[place], torch.autograd.grad(alone.sum(), [model.one.weight])[0], atol=1e-5)
    assert models[0].two.weight is models[0].one.weight


def test_a_stack_is_cut_to_what_memory_holds(monkeypatch):
    runs = made(PLAIN, [BASE] * 5)
    each = memory.replica_bytes(runs[0])
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2.5 * each / memory.SHARE)
    together = Together(runs)
    assert [len(stack.runs) for stack in together.stacks] == [2, 2]
    assert together.reasons == ["memory is short"]


# -- with folders ------------------------------------------------------------------------------------------------------


def opened(folder, workload=NET, regimes=VARIANTS[:3]):
    return [
        Session.at(workload, regime, seed, lambda _, seed=seed: folder / str(seed), checkpoint="10%", validate="25%")
        for seed, regime in enumerate(regimes)
    ]


def ended(given):
    return [found for found in sessions.train(given) if isinstance(found, sessions.Ended)]


def contents(folder):
    """What is on disk of every run, but for times."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in files.items()
        if path.name in ("records.jsonl", "result.json", "model.safetensors", "state.safetensors")
    }


def test_folders_hold_what_runs_alone_leave(tmp_path):
    assert [raised for _, raised in ended(opened(tmp_path))] == [None] * 3
    for seed, regime in enumerate(VARIANTS[:3]):
        alone = rg.run(NET, regime, seed, out=tmp_path / f"alone {seed}", validate="25%")
        result = json.loads((tmp_path / str(seed) / "result.json").read_text())
        assert result["metrics"]["val/loss"] == pytest.approx(alone.metrics["val/loss"], abs=1e-9)
        assert result["work"] == json.loads((tmp_path / f"alone {seed}" / "result.json").read_text())["work"]
        rows = [json.loads(row) for row in (tmp_path / str(seed) / "records.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "val/loss" in row] == [49, 99, 149, 199]
        assert [set(row) for row in rows] == [set(row) for row in alone.records]


@pytest.mark.parametrize("at", [1, 37, 120])
def test_a_stop_is_a_checkpoint_of_every_run_and_the_rest_has_the_same_bits(tmp_path, at, monkeypatch):
    list(sessions.train(opened(tmp_path / "whole")))
    note, seen = Session.note, []

    def noted(self, record):
        seen.append(record)
        if len(seen) == 3 * at:
            os.kill(os.getpid(), signal.SIGTERM)
        return note(self, record)

    monkeypatch.setattr(Session, "note", noted)
    with pytest.raises(Interrupted):
        list(sessions.train(opened(tmp_path / "cut")))
    monkeypatch.undo()
    assert not list((tmp_path / "cut").glob("*/result.json"))
    assert [raised for _, raised in ended(opened(tmp_path / "cut"))] == [None] * 3
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    assert {name for name in whole if "checkpoints" not in name} <= set(cut)
    assert all(cut[name] == whole[name] for name in whole if "checkpoints" not in name)


def test_a_run_that_is_finished_is_read_and_one_that_is_taken_is_left(tmp_path):
    list(sessions.train(opened(tmp_path)[:1]))
    stamp = (tmp_path / "0" / "result.json").stat().st_mtime_ns
    taken = opened(tmp_path)[1]
    taken.folder.lock()
    found = {session.run.seed: raised for session, raised in ended(opened(tmp_path))}
    assert (found[0], found[2]) == (None, None)
    assert isinstance(found[1], Locked)
    assert (tmp_path / "0" / "result.json").stat().st_mtime_ns == stamp
    taken.folder.unlock()


# -- one run alone -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workload", [PLAIN, NET], ids=["plain", "norm and dropout"])
@pytest.mark.parametrize("fields", [{}, {"lag": 2}, {"grad_transforms": [rg.ClipNorm(0.5)]}, {"micro_batch": 4}])
def test_a_run_that_nobody_looks_at_has_the_bits_of_one_that_is_streamed(tmp_path, workload, fields):
    for name, train in (("run", rg.run), ("stream", rg.stream)):
        made = train(workload, BASE.but(**fields), 3, out=tmp_path / name, validate="25%")
        if name == "stream":
            assert len(list(made)) == 200
    run, stream = contents(tmp_path / "run"), contents(tmp_path / "stream")
    assert run == stream


def test_a_burst_stops_before_a_step_that_is_not_finite_and_goes_on_after_it(tmp_path):
    x, y = data(0)
    x[50] = torch.nan
    bad = rg.Workload(model=net, train=(x, y), val=data(1), loss=rg.CrossEntropy())
    rg.run(bad, BASE, 3, out=tmp_path / "run")
    rows = [json.loads(row) for row in (tmp_path / "run" / "records.jsonl").read_text().splitlines()]
    assert sum("skipped" in row for row in rows) > 10
    list(rg.stream(bad, BASE, 3, out=tmp_path / "stream"))
    assert contents(tmp_path / "run") == contents(tmp_path / "stream")


def test_a_step_of_much_arithmetic_is_not_stacked_unless_it_is_compiled(monkeypatch):
    """Told by operations: 16 examples through 6-8-2 take 3 * 2 * 16 * (6 * 8 + 8 * 2) without the first layer's 2 * 16 * 48."""
    flops = 3 * 2 * 16 * (6 * 8 + 8 * 2) - 2 * 16 * 6 * 8
    monkeypatch.setattr(stackable, "BOUND", flops)
    assert len(Together(made(PLAIN, VARIANTS[:2])).stacks) == 1
    monkeypatch.setattr(stackable, "BOUND", flops - 1)
    together = Together(made(PLAIN, VARIANTS[:2]))
    assert together.stacks == []
    assert "keep a core busy" in together.reasons[0]
    assert stackable.bound(made(PLAIN, [BASE.but(compile=True)])[0]) is None


def test_runs_that_give_up_at_the_same_step_end_one_by_one():
    worst = BASE.but(optimizer=rg.SGD(lr=1e308), budget="30 steps")
    found, _ = stepped(made(PLAIN, [worst, worst, BASE.but(budget="30 steps"), worst]))
    assert [isinstance(records[-1], RunFailed) for records in found] == [True, True, False, True]
