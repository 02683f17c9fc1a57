"""Probes change nothing: weights, states, buffers, records, data order and work are bitwise the same without them."""

import pytest
import torch

import regimes as rg
from regimes.core.kinds import Probe
from regimes.engine import trees
from regimes.engine.api import Session


class Vandal(Probe):
    """Changes whatever it can reach, and then fails or returns."""

    fails: bool = rg.core.component.fixed(True)

    def measure(self, view):
        view.loss().backward()
        with torch.no_grad():
            for p in view.model.parameters():
                p.fill_(7.0).requires_grad_(False)
            for b in view.model.buffers():
                b.zero_()
        view.model.eval()
        torch.manual_seed(99)
        if self.fails:
            raise RuntimeError("out of order")
        return {"": 1.0}


EVERY = "0.1%"
PROBES = [
    rg.GradientNorm(every=EVERY),
    rg.UpdateRatio(every=EVERY),
    rg.GradientNoiseScale(small=4, parts=2, every=EVERY),
    rg.Sharpness(examples=16, iterations=4, every=EVERY),
    rg.WeightNorm(layers=True, every=EVERY),
    rg.ExampleLoss(every=EVERY),
    rg.LayerNorms(every=EVERY),
]
NAMES = {type(probe).__name__ for probe in PROBES}

REGIMES = {
    "lag and feedback": rg.Regime(
        optimizer=rg.SAM(rg.SGD(lr=rg.Cosine(0.05), momentum=0.9)),
        batch_size=rg.Linear(6, 12),
        sampler=rg.LossWeighted(),
        average=rg.EMA(0.9),
        lag=2,
        budget="60 samples",
        evaluate="20%",
    ),
    "two phases": rg.Regime(
        phases=[
            rg.Phase("first", budget="40%", optimizer=rg.AdamW(lr=rg.Cosine(1e-2)), lag=1),
            rg.Phase("second", budget="60%", optimizer=rg.Lion(lr=1e-3), trainable="4.*", carry=["model", "cursor"]),
        ],
        batch_size=8,
        micro_batch=4,
        budget="10 steps",
    ),
    "zeroth order": rg.Regime(optimizer=rg.MeZO(lr=1e-2), batch_size=8, budget="6 steps"),
    "flops": rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="16k flops"),
}


def trained(work, regime, probes):
    """Everything that a run leaves behind, and its records without the values of probes."""
    torch.manual_seed(5)
    options = {
        "out": None,
        "validate": "30%",
        "probes": probes,
        "checkpoint": "10%",
        "max_time": None,
        "give_up": 10,
        "reduce": "tree",
    }
    session = Session(work, regime, 3, options | {"workload_spec": None})
    order, records = [], []
    plan_before = session.run.frame.plans[0].indices.tolist()
    for record in session.records():
        order.append(plan_before)
        plans = session.run.frame.plans
        plan_before = plans[0].indices.tolist() if plans else None
        records.append(record)
    own = {name for record in records for name in record.signals if _is_probes(name, session.observer)}
    bare = [r._replace(signals={n: v for n, v in r.signals.items() if n not in own}) for r in records]
    tree = trees.clone(session.run.tree())
    del tree["work"]["observed_flops"]
    modes = [module.training for module in session.run.model.modules()]
    outside = torch.rand(3).tolist()
    return {"tree": tree, "records": bare, "order": order, "modes": modes, "outside": outside}, records


def _is_probes(name, observer):
    return name == "probe_error" or any(name == own or name.startswith(f"{own}/") for own in observer._names)


def same(one, other):
    assert trees.differences(one["tree"], other["tree"]) == []
    for key in ("records", "order", "modes", "outside"):
        assert one[key] == other[key]
    assert one["tree"]["work"]["flops"] == other["tree"]["work"]["flops"] > 0


@pytest.mark.parametrize("name", REGIMES)
def test_all_on_or_all_off_is_the_same_run(work, name):
    bare, _ = trained(work, REGIMES[name], [])
    observed, records = trained(work, REGIMES[name], PROBES)
    same(bare, observed)
    last = records[-1].signals
    for wanted in (
        "gradient_norm",
        "update_ratio",
        "gradient_noise_scale",
        "sharpness",
        "weight_norm/4",
        "layer_norms/gradient/4",
    ):
        assert isinstance(last[wanted], float)
    assert not any("probe_error" in record.signals for record in records)


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("name", ["lag and feedback", "two phases"])
def test_a_probe_that_breaks_everything_breaks_nothing(work, name, fails):
    bare, _ = trained(work, REGIMES[name], [])
    between = [Vandal(fails, every=EVERY), PROBES[0], Vandal(fails, every="50%"), PROBES[3]]
    observed, records = trained(work, REGIMES[name], between)
    same(bare, observed)
    clean = trained(work, REGIMES[name], [PROBES[0], PROBES[3]])[1]
    for found, alone in zip(records, clean):
        for key in ("gradient_norm", "sharpness"):
            assert found.signals.get(key) == alone.signals.get(key)
    said = [record.signals["probe_error"] for record in records if "probe_error" in record.signals]
    if not fails:
        assert said == []
        return
    sentence = "probe Vandal() failed: RuntimeError: out of order; the run went on without it"
    assert sentence.replace("Vandal()", repr(between[0])) in said[0]
    # At a seam nobody looks; the rare one speaks only when it is due.
    seams = len(REGIMES[name].phases) - 1
    assert len(said) == len(records) - seams
    assert sum(text.count("failed") for text in said) == len(said) + sum("50%" in text for text in said)


def test_probes_look_when_they_are_due_and_after_the_last_step(work):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="20 steps")
    records = list(rg.stream(work, regime, probes=[rg.WeightNorm(every="30%"), rg.GradientNorm(every="10 steps")]))
    assert [r.at.step for r in records if "weight_norm" in r.signals] == [5, 11, 17]
    assert [r.at.step for r in records if "gradient_norm" in r.signals] == [9, 19]
    records = list(rg.stream(work, regime, probes=[rg.WeightNorm()]))
    assert [r.at.step for r in records if "weight_norm" in r.signals] == list(range(20))


def test_measurements_of_equal_weights_are_equal_whatever_the_caller_draws(work):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=8, budget="4 steps")
    probes = [rg.GradientNoiseScale(small=4, every=EVERY), rg.Sharpness(examples=16, iterations=3, every=EVERY)]
    found = set()
    for record in rg.stream(work, regime, probes=probes):
        found.add((record.signals["gradient_noise_scale/trace"], record.signals["sharpness"]))
        torch.rand(3)
    assert len(found) == 1


def test_two_probes_of_one_class_keep_their_names_apart(work):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps")
    probes = [rg.ExampleLoss(quantiles=[q], hardest=0, every=EVERY) for q in (0.0, 1.0)]
    *_, last = rg.stream(work, regime, probes=probes)
    assert last.signals["example_loss/q0"] < last.signals["example_loss_2/q100"]


def test_a_cadence_that_cannot_be_converted_is_refused_beforehand(work):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps")
    with pytest.raises(rg.DeclarationError, match=r"probes.WeightNorm.every: got '10 tokens' where the budget is"):
        next(rg.stream(work, regime, probes=[rg.WeightNorm(every="10 tokens")]))
    with pytest.raises(
        rg.DeclarationError, match=r"probes.WeightNorm.every: got '0 steps'; allowed: more than nothing"
    ):
        next(rg.stream(work, regime, probes=[rg.WeightNorm(every="0 steps")]))


def test_what_was_observed_is_charged_apart(work):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps")
    spent = []
    for probes in ([], [rg.GradientNorm(every=EVERY)], [rg.GradientNorm(every="2 steps"), Vandal(every=EVERY)]):
        options = {
            "out": None,
            "validate": None,
            "probes": probes,
            "checkpoint": "10%",
            "max_time": None,
            "give_up": 10,
            "reduce": "tree",
        }
        session = Session(work, regime, 0, options | {"workload_spec": None})
        list(session.records())
        spent.append((session.run.work.flops, session.run.work.observed_flops))
    (flops, rest), (_, one), (_, other) = spent
    # One gradient on the step's batch costs what the step itself costs; a failed probe is charged for what it did.
    assert [each[0] for each in spent] == [flops] * 3
    assert one - rest == flops
    assert other - rest == flops / 2 + flops


def test_interrupts_are_not_swallowed(work):
    class Impatient(Probe):
        def measure(self, view):
            raise KeyboardInterrupt

    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps")
    with pytest.raises(KeyboardInterrupt):
        list(rg.stream(work, regime, probes=[Impatient(every=EVERY)]))


def test_killed_and_resumed_with_probes_ends_in_the_same_records(work, tmp_path):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="9 steps")
    probes = [rg.UpdateRatio(every="2 steps"), Vandal(every="3 steps"), rg.GradientNoiseScale(small=4, every="2 steps")]
    whole = rg.run(work, regime, out=tmp_path / "whole", probes=probes, checkpoint="2 steps")
    stream = rg.stream(work, regime, out=tmp_path / "broken", probes=probes, checkpoint="2 steps")
    for _ in range(6):
        next(stream)
    stream.close()
    broken = rg.run(work, regime, out=tmp_path / "broken", probes=probes, checkpoint="2 steps")
    assert (tmp_path / "broken" / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()
    for one, other in zip(whole.model.parameters(), broken.model.parameters()):
        assert torch.equal(one, other)


def test_a_result_says_that_a_probe_failed(work, tmp_path):
    for out in (None, tmp_path / "run"):
        found = rg.run(work, REGIMES["two phases"], probes=[Vandal(True, every="50%")], out=out)
        steps = sum("probe_error" in row for row in found.records)
        assert steps > 0
        (note,) = found.notes
        assert note.startswith(f"after {steps} steps a probe failed; first: probe ")
        assert note.endswith("failed: RuntimeError: out of order; the run went on without it")


class Running(torch.nn.Module):
    """A buffer that no checkpoint of torch's keeps, written in place from the first forward on."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return self.net(x - self.mean)


def test_looking_ahead_leaves_buffers_of_any_kind_as_they_are():
    data = (torch.randn(16, 4), torch.randint(2, (16,)))
    work = rg.Workload(model=Running, train=data, loss=torch.nn.CrossEntropyLoss())
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="4 steps")
    looked, blind = (rg.Run(work, regime, look_ahead=look) for look in (True, False))
    assert torch.equal(looked.model.mean, blind.model.mean)
    assert [record.loss for record in looked] == [record.loss for record in blind]
