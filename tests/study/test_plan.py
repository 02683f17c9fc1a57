"""Plans say beforehand what a run then does: steps, samples, tokens, work, states, curves."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller
from regimes.study import files
from regimes.study.check import check
from regimes.study.plan import plan, plan_comparison
from regimes.study.problems import FileErrors
from regimes.workloads.models import MLP


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def work():
    return rg.Workload(model=net, train=data(), val=data(20, 1), loss=nn.CrossEntropyLoss(), name="tiny")


SGD = rg.SGD(lr=rg.Cosine(0.1, warmup="20%"), momentum=0.9)
REGIMES = {
    "steps": rg.Regime(optimizer=SGD, batch_size=8, budget="30 steps"),
    "epochs": rg.Regime(optimizer=SGD, batch_size=8, budget="3 epochs"),
    "samples, ragged": rg.Regime(optimizer=SGD, batch_size=7, budget="100 samples"),
    "tokens": rg.Regime(optimizer=SGD, batch_size=8, budget="100 tokens"),
    "two evaluations a step": rg.Regime(optimizer=rg.SAM(SGD), batch_size=8, budget="20 steps"),
    "phases": rg.Regime(
        phases=[
            rg.Phase("one", budget="60%"),
            rg.Phase("two", budget="40%", batch_size=4, average=rg.EMA(0.9), carry=["model", "optimizer"]),
        ],
        optimizer=SGD,
        batch_size=8,
        budget="200 samples",
    ),
}


def trained(regime):
    run = rg.Run(work(), regime, seed=0)
    list(run)
    return run


@pytest.mark.parametrize("name", REGIMES)
def test_the_plan_is_what_the_run_does(name):
    found, run = plan(work(), REGIMES[name], time=False), trained(REGIMES[name])
    assert found.steps == run.frame.step
    assert sum(phase.samples for phase in found.phases) == run.frame.samples
    assert sum(phase.tokens for phase in found.phases) == run.frame.tokens
    assert found.flops == pytest.approx(run.work.spent, rel=1e-12)
    # How many tokens an example has is not declared here: one step showed it.
    assert all(phase.exact for phase in found.phases) == (name != "tokens")
    assert found.seconds is None


def test_a_changing_batch_size_is_estimated():
    regime = rg.Regime(optimizer=SGD, batch_size=rg.Linear(4, 16), budget="1200 samples")
    found, run = plan(work(), regime, time=False).phases[0], trained(regime)
    assert not found.exact
    # n samples take n * mean(1 / batch) = 1200 ln(4) / 12 = 139 steps for a batch that grows linearly.
    assert found.steps == pytest.approx(139, abs=1)
    assert found.steps == pytest.approx(run.frame.step, abs=2)
    assert found.samples == 1200


def test_a_budget_in_flops_is_converted_by_the_work_of_a_step():
    per_step = plan(work(), REGIMES["steps"], time=False).flops / 30
    regime = REGIMES["steps"].but(budget=f"{12.5 * per_step} flops")
    found = plan(work(), regime, time=False).phases[0]
    assert (found.steps, trained(regime).frame.step) == (13, 13)


def test_memory_counts_what_a_run_keeps():
    memory = plan(work(), REGIMES["steps"], time=False).memory
    parameters = 4 * sum(p.numel() for p in net().parameters())
    assert (memory.parameters, memory.gradients, memory.optimizer) == (parameters,) * 3
    assert memory.batch == 8 * (6 * 4 + 8)
    assert memory.total == 3 * parameters + memory.batch + memory.other_states
    averaged = plan(work(), REGIMES["steps"].but(average=rg.EMA(0.9)), time=False).memory
    assert averaged.other_states - memory.other_states == parameters


def test_curves_are_the_schedules_of_the_run():
    regime = REGIMES["phases"].but(
        {"two.optimizer.lr": "Linear(0.5, 0.1, over='run')", "*.momentum": "Linear(0.5, 0.9)"}
    )
    one, two = plan(work(), regime, time=False).phases
    curves = {c.path: c for c in two.curves}
    assert [c.path for c in one.curves] == ["optimizer.lr", "optimizer.momentum"]
    assert one.curves[0].declared == "Cosine(0.1, warmup='20%')"
    assert (one.curves[0].start, one.curves[0].end) == (0.0, 0.0)
    assert one.curves[0].peak == pytest.approx(0.1, abs=1e-6)
    # The second phase begins at 60% of the run.
    lr = curves["optimizer.lr"]
    assert [lr.start, lr.peak, lr.end] == pytest.approx([0.26, 0.26, 0.1], abs=1e-12)
    assert len(lr.values) == 129


class Halving(Controller):
    """A controller, for the test: begins at 0.5."""

    needs = ("loss",)

    def init(self):
        return {"value": 0.5}

    def value(self, state, at):
        return state["value"]


def test_a_controller_is_known_at_its_start_only():
    (curve,) = plan(work(), REGIMES["steps"].but({"optimizer.lr": Halving()}), time=False).phases[0].curves
    assert (curve.start, curve.end, curve.values) == (0.5, None, ())


def test_groups_have_a_table_and_its_parameters_add_up():
    groups = rg.Groups([rg.groups.Group("@vectors", rg.SGD(lr=0.1)), rg.groups.Group("*", rg.AdamW(lr=1e-3))])
    found = plan(work(), REGIMES["steps"].but(optimizer=groups), time=False).phases[0].groups
    assert [(g.match, g.tensors, g.parameters, g.names) for g in found] == [
        ("@vectors", 2, 11, ("0.bias", "2.bias")),
        ("*", 2, 72, ("0.weight", "2.weight")),
    ]
    assert plan(work(), REGIMES["steps"], time=False).phases[0].groups == ()


def test_time_is_measured_and_multiplied():
    found = plan(work(), REGIMES["steps"], validate="10%")
    phase = found.phases[0]
    assert phase.validations == 10
    assert phase.seconds == pytest.approx(30 * found.step_seconds)
    assert found.seconds == pytest.approx(phase.seconds + 10 * found.validation_seconds)
    assert found.step_seconds > 0


def test_nothing_of_the_callers_is_touched():
    model = net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    mine = rg.Workload(model=model, train=data(), val=data(20, 1), loss=nn.CrossEntropyLoss())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    plan(mine, REGIMES["phases"])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_what_a_later_phase_refuses_is_refused():
    with pytest.raises(DeclarationError, match=r"^two.trainable: got 'head', which matches no parameter"):
        plan(work(), REGIMES["phases"].but({"two.trainable": ["head"]}))
    with pytest.raises(DeclarationError, match=r"^two.carry: got 'average', .*both"):
        plan(work(), REGIMES["phases"].but({"two.carry": ["model", "average"]}))


def test_printed_and_as_data():
    found = plan(work(), REGIMES["phases"])
    text = str(found)
    assert re.search(r"^ *one +120 samples +83 +15 +120 +120 ", text, re.MULTILINE), text
    assert re.search(r"^ *two +80 samples +83 +20 +80 +80 ", text, re.MULTILINE), text
    assert "two.optimizer.lr = Cosine(0.1, warmup='20%')" in text
    assert "start 0, peak 0.1, end 0" in text
    assert sum("⠀" <= letter <= "⣿" for letter in text) == 2 * 3 * 32
    facts = json.loads(json.dumps(found.to_dict()))
    assert (facts["steps"], facts["phases"][1]["steps"]) == (35, 20)
    assert facts["regime"] == repr(REGIMES["phases"])
    assert "(--no-time)" in str(plan(work(), REGIMES["steps"], time=False))


EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples" / "regimes").glob("*.yaml"))
#: Federated clients, a whole training, stages of trials; what is longer is slow.
QUICK = ("auto_lrs", "cyclical_curriculum", "fed_avg")


@pytest.mark.parametrize(
    "file",
    [pytest.param(f, marks=() if f.stem in QUICK else pytest.mark.slow, id=f.stem) for f in EXAMPLES],
)
def test_a_plan_is_within_a_tenth_of_what_a_run_takes_or_says_what_it_cannot_count(file):
    found = files.read(file)
    planned, done = plan(found.workload, found.regime, time=False), rg.run(found.workload, found.regime)
    counted = {
        "samples": (sum(p.samples + p.trial_samples for p in planned.phases), done.work.samples),
        "trial steps": (sum(p.trial_steps for p in planned.phases), len(done.trial_records)),
        "tokens": (sum(p.tokens for p in planned.phases), done.tokens),
        "steps": (planned.steps, done.steps),
        "flops": (planned.flops, done.work.spent),
    }
    if any("batch size" in note and "steps and work are counted as if" in note for note in planned.notes):
        del counted["steps"], counted["flops"]
    off = {name: pair for name, pair in counted.items() if abs(pair[0] - pair[1]) > 0.1 * pair[1]}
    assert not off
    assert set(counted) > {"samples", "tokens"}


def test_a_later_phases_parameters_and_those_trained_in_it_are_its_own():
    grown = rg.Regime(
        optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps",
        phases=[rg.Phase("small", budget="50%"), rg.Phase("large", budget="50%", on_entry=[rg.GrowWidth(16)])],
    )  # fmt: skip
    made = rg.Workload(model=lambda: MLP((6, 8, 8, 3)), train=data(), val=data(20, 1), loss=nn.CrossEntropyLoss())
    small, large = plan(made, grown, time=False).phases
    assert (small.parameters, large.parameters) == (56 + 72 + 27, 112 + 272 + 51)
    assert large.flops > 2 * small.flops


def test_needed_validation_is_counted_by_its_cadence_and_given_weights_are_charged(tmp_path):
    declared = REGIMES["steps"].but({"lr": rg.Plateau() * 0.1, "evaluate": "4 steps"})
    done = rg.run(work(), declared, out=tmp_path / "first")
    assert plan(work(), declared, time=False).flops == pytest.approx(done.work.spent)
    after = REGIMES["steps"].but({"on_entry": [rg.StartFrom(rg.FromRun(str(tmp_path / "first")))]})
    assert plan(work(), after, time=False).flops == pytest.approx(rg.run(work(), after).work.spent)


# -- comparisons and checks ----------------------------------------------------------------------------------------

ARMS = {"a": REGIMES["steps"], "b": REGIMES["steps"].but({"lr.peak": 0.2})}


def test_a_comparison_counts_its_runs():
    settings = {"metric": "val/loss", "margin": 0.1, "seeds": 6, "trials": 3, "level": 0.95, "validate": None}
    found = plan_comparison(work(), ARMS, settings | {"tune": {"*.lr.peak": rg.times(0.5, 2)}}, time=True)
    assert found.runs == 2 * (6 + 3)
    assert found.seconds == pytest.approx(9 * (found.arms["a"].seconds + found.arms["b"].seconds))
    assert f"{found.detectable:.2f} standard deviations" in str(found)
    assert found.to_dict()["arms"]["b"]["steps"] == 30
    # One comparison is a paired t test: at that effect a noncentral t exceeds its quantile with 80%.
    beyond = stats.nct.sf(stats.t.ppf(0.975, 5), 5, found.detectable * math.sqrt(6))
    assert beyond == pytest.approx(0.8, abs=1e-6)


MODULE = """
from torch import nn
import torch
import regimes as rg
def work():
    x = torch.arange(240.0).view(40, 6)
    return rg.Workload(model=lambda: nn.Linear(6, 2), train=(x, torch.arange(40) % 2), val=(x, torch.arange(40) % 2),
                       loss=nn.CrossEntropyLoss(), name="tiny")
"""
FILE = "workload: plan_test_module:work\nregime:\n  optimizer: {}\n  batch_size: 4\n  budget: 12 steps\n"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    (tmp_path / "plan_test_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def read(source):
        (tmp_path / "f.yaml").write_text(source)
        return check(files.read("f.yaml"))

    return read


def test_check_says_what_a_file_holds(checked):
    assert checked(FILE.format("SGD(lr=0.1)"))["says"] == ["a run on tiny: 12 steps"]
    arms = "compare: {margin: 0.1, seeds: 6}\narms:\n  a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 12 steps}\n"
    said = checked(f"workload: plan_test_module:work\n{arms}  b: {{like: a, lr: 0.2}}\n")["says"]
    assert said[0] == "a comparison on tiny in val/loss, margin 0.1, 6 seeds, 0 trials, at 12 steps"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (FILE.format("SGD(lr=Linear(0.1, -0.1))"), r"^f.yaml:3: regime.optimizer.lr: Linear\(0.1, .* at .*got -"),
        (FILE.format("SGD(lr=Cosine(0.1, warmup='5 flops'))"), r"^f.yaml:3: regime.optimizer.lr.warmup: got '5 flops'"),
        (FILE.format("SGD(lr=Cosine(0.1, warmup='30 steps'))"), r"^f.yaml:3: regime.optimizer.lr.warmup: .*times the stretch"),
        (FILE.format("SGD(lr=0.1)") + "  trainable: [head]\n", r"^f.yaml:6: regime.trainable: got 'head', which matches"),
        (FILE.format("SGD(lr=0.1)") + "  mixture: Mixture(code=1)\n", r"^f.yaml:6: regime.mixture: .*no source 'code'"),
        (FILE.format("SGD(lr=0.1)") + "options: {validate: 5 epochs, probes: [GradientNorm(every='0%')]}\n",
         r"^f.yaml:6: options.probes.*every: got '0%'"),
        (FILE.format("Groups([Group('x*', SGD(lr=0.1))])"),
         r"regime.(optimizer.)?groups.*is in no group|owns no parameter"),
        ("workload: plan_test_module:work\ncompare: {margin: 0.1, seeds: 6}\narms:\n"
         "  a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 12 steps}\n  b: {like: a, budget: 13 steps}\n",
         r"^f.yaml:5: arms.b.budget: got 13 steps, the baseline has 12"),
        ("workload: plan_test_module:work\ncompare: {margin: 0.1, metric: acc}\narms:\n"
         "  a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 12 steps}\n  b: {like: a, lr: 1}\n",
         r"^f.yaml:2: compare.metric: there is no metric 'acc'"),
        ("workload: plan_test_module:work\ncompare: {margin: 0.1, seeds: 6}\narms:\n"
         "  a: {optimizer: SGD(lr=0.1), batch_size: 4, budget: 12 steps}\n",
         r"^f.yaml:4?3?: arms: got 1; allowed: at least two"),
    ],
)  # fmt: skip
def test_check_refuses_with_the_line_what_the_workload_cannot_bear(checked, source, said):
    with pytest.raises(FileErrors) as caught:
        checked(source)
    assert re.search(said, str(caught.value)), str(caught.value)
