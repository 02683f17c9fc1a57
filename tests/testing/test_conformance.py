"""Every registered component keeps the contracts of its kind; what ran is counted, what is exempted has a reason."""

import pytest
import torch

import regimes as rg
from regimes.core.component import knob
from regimes.core.kinds import Draw, Knob, Optimizer, Sampler
from regimes.core.registry import REGISTRY
from regimes.testing import conformance
from regimes.testing.conformance.__main__ import main

#: Fewest checks of a component of each kind: a list that vanishes is a failure, not a pass.
LEAST = {
    "augment": 14,
    "averager": 18,
    "controller": 16,
    "detector": 6,
    "estimator": 6,
    "float_format": 6,
    "grad_transform": 17,
    "group": 6,
    "loss": 16,
    "model_transform": 13,
    "optimizer": 20,
    "phase": 6,
    "probe": 10,
    "range": 6,
    "regime": 6,
    "sampler": 16,
    "schedule": 16,
    "selector": 14,
    "weights": 6,
}


@conformance.parametrize_with_checks()
def test_contract(check):
    check()


@pytest.mark.slow
@pytest.mark.parametrize("cls", REGISTRY.classes(), ids=lambda cls: cls.__name__)
def test_contracts_at_every_step(cls):
    found = conformance.report([cls], steps=40)
    assert found.ok, found


@pytest.mark.parametrize("cls", REGISTRY.classes(), ids=lambda cls: cls.__name__)
def test_no_list_of_checks_vanishes(cls):
    assert len(list(conformance.checks(cls))) >= LEAST[cls.kind]


# -- the suite itself --------------------------------------------------------------------------------------


class LeastSeen(Sampler):
    """Draw classes in inverse proportion to (1 + how often they were trained on)^sharpness."""

    sharpness: Knob = knob(1.0, low=0)
    needs = ("units",)

    def init(self, view):
        labels = view.column(view.only, "label")
        return {"labels": labels, "seen": torch.zeros(int(labels.max()) + 1)}

    def start(self, view, key):
        return {}

    def draw(self, state, cursor, n, ctx):
        weight = (1 + state["seen"]).pow(-self.sharpness)[state["labels"]].double().numpy()
        return Draw(ctx.rng("least-seen").choice(len(weight), size=n, p=weight / weight.sum()), cursor)

    def observe(self, state, signals, at):
        labels = state["labels"][signals["units"].indices]
        state["seen"] += torch.bincount(labels, minlength=len(state["seen"]))
        return state


@conformance.parametrize_with_checks([LeastSeen, LeastSeen(sharpness=2.0)])
def test_third_party(check):
    check()


class Drift(Optimizer):
    """Writes before its second evaluation, and says so."""

    lr: Knob = knob(0.05, low=0)
    single_evaluation = False
    exempt = {
        "writes after its last evaluation": "the second gradient is wanted at the new weights, on purpose",
        "leaves a skipped step untouched": "the first half of the step has been made by then",
    }

    def init(self, parameters):
        return {}

    @torch.no_grad()
    def step(self, state, parameters, evaluate):
        with torch.enable_grad():
            first = evaluate(final=False).gradients
        for p, g in zip(parameters.values(), first):
            p.sub_(g, alpha=self.lr)
        with torch.enable_grad():
            second = evaluate().gradients
        for p, g in zip(parameters.values(), second):
            p.sub_(g, alpha=self.lr)
        return state


def test_exemptions_are_counted_and_listed_with_their_reasons():
    found = conformance.report([Drift])
    (row,) = found.rows
    assert found.ok
    assert row.exempted == Drift.exempt
    assert "exempt Drift: leaves a skipped step untouched: the first half of the step has been made" in str(found)
    assert f"{'Drift':<9}  {'optimizer':<15}  {row.ran:>6}  {2:>8}  {0:>6}" in str(found)


class Stale(LeastSeen):
    exempt = {"draws the same again": "once upon a time it did not"}


def test_an_exemption_that_is_not_needed_is_a_failure():
    (row,) = conformance.report([Stale]).rows
    assert row.failed == {
        "draws the same again": "is exempted (once upon a time it did not), but passes: drop the exemption"
    }


@pytest.mark.parametrize(
    ("exempt", "sentence"),
    [
        ({"draws twice": "it cannot be helped"}, "names 'draws twice', which is none of its checks"),
        ({"draws the same again": ""}, "gives no reason; write a sentence"),
    ],
)
def test_exemptions_name_checks_and_give_reasons(exempt, sentence, monkeypatch):
    monkeypatch.setattr(LeastSeen, "exempt", exempt, raising=False)
    assert sentence in conformance.report([LeastSeen]).rows[0].failed["exemptions are in order"]


class Shy(LeastSeen):
    def draw(self, state, cursor, n, ctx):
        if n > 40:
            pytest.skip("too many")
        return super().draw(state, cursor, n, ctx)


def test_skipping_is_failing():
    (row,) = conformance.report([Shy]).rows
    assert set(row.failed) == {"draws what can be fetched"}
    assert "skipped (too many); write the reason into the class's `exempt`" in row.failed["draws what can be fetched"]


class Picky(LeastSeen):
    def validate(self):
        raise rg.DeclarationError("never", "sharpness")


class Stubborn(LeastSeen):
    def init(self, view):
        raise rg.DeclarationError("not with this data")


def test_a_class_without_example_fails_and_says_what_was_tried():
    class Local(LeastSeen):
        pass

    tried = (Picky, "no instance"), (Stubborn, "not with this data"), (Local, "defined inside a function")
    for cls, why in tried:
        (row,) = conformance.report([cls]).rows
        assert row.ran == 2
        assert list(row.failed) == ["an example can be made"]
        assert why in row.failed["an example can be made"]
        assert "classmethod `example()`" in row.failed["an example can be made"]


class Hooked(LeastSeen):
    @classmethod
    def example(cls):
        return cls(sharpness=3.0)


def test_examples_come_from_the_hook_the_default_and_the_docstring():
    def examples(cls):
        return [repr(setup.example) for setup in conformance.Stand(cls, cls.kind).setups]

    assert [text.split(":")[-1] for text in examples(Hooked)] == ["Hooked(sharpness=3.0)"]
    assert examples(rg.SGD) == ["SGD()", "SGD(lr=0.1, momentum=0.9)"]
    assert examples(rg.Freeze) == ["Freeze(['0.*'])"]


def test_an_instance_is_tried_as_it_is():
    named = {check.name for check in conformance.checks(rg.SGD(lr=0.1, momentum=0.9, nesterov=True))}
    assert "resumes bitwise in every example" not in named
    assert conformance.report([rg.SGD(lr=0.1, momentum=0.9)]).ok
    with pytest.raises(TypeError, match="got 3; allowed: a component"):
        next(conformance.checks(3))


def test_the_command_prints_the_table_and_fails_where_something_failed(capsys, monkeypatch):
    assert main(["--steps", "4", "Reshuffle", "EMA"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["component", "kind", "checks", "exempted", "failed"]
    assert [line.split()[0] for line in printed[1:3]] == ["Reshuffle", "EMA"]
    assert printed[3].endswith("checks of 2 components")

    def drifting(self, state):
        state["count"] += 1
        return state["slots"]

    monkeypatch.setattr(rg.EMA, "average", drifting)
    assert main(["--steps", "4", "EMA"]) == 1
    assert (
        "FAILED EMA: averages what it is shown: NonConformance: averaging changes the state" in capsys.readouterr().out
    )


def test_it_leaves_the_global_generators_and_threads_as_they_were():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert conformance.report([LeastSeen]).ok
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
