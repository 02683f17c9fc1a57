"""Optimizers of other packages, by name: their bits, their memory, what cannot be driven."""

import pytest
import torch

import regimes as rg
from regimes.engine import trees
from regimes.engine.run import Run
from regimes.optimizers.foreign import pytorch_optimizer_class
from regimes.testing.resume import resume_chain, through_bytes

CLASSES = {
    "ASGD": {"lr": 0.05, "t0": 3.0},
    "Adadelta": {"lr": 0.5, "weight_decay": 0.1},
    "Adafactor": {"lr": 0.05},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.2},
    "Adam": {"lr": 0.02, "amsgrad": True},
    "Adamax": {"lr": 0.02},
    "NAdam": {"lr": 0.02, "decoupled_weight_decay": True, "weight_decay": 0.1},
    "RAdam": {"lr": 0.02},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "centered": True},
    "Rprop": {"lr": 0.01, "etas": (0.4, 1.3)},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
}
SHAPES = [(4, 3), (5,), (3, 2, 2, 2)]


@pytest.mark.parametrize("name", CLASSES)
def test_by_name_has_the_bits_of_the_class(hand, name):
    parameters, gradients = hand.given(SHAPES, 15, torch.float32)
    expected = hand.drive_torch(lambda ps: getattr(torch.optim, name)(ps, **CLASSES[name]), parameters, gradients)
    hand.drive(rg.Torch(name, **CLASSES[name]), parameters, gradients)
    for key, p in parameters.items():
        assert torch.equal(p, expected[key])
        assert p.grad is None


@pytest.mark.parametrize("name", CLASSES)
def test_state_in_our_tree_is_all_there_is(hand, name):
    """Every second step through the bytes of a checkpoint: the same weights and the same tree."""
    rule = rg.Torch(name, **CLASSES[name])
    (whole, gradients), (broken, _) = hand.given(SHAPES, 14, torch.float32), hand.given(SHAPES, 14, torch.float32)
    expected, state = hand.drive(rule, whole, gradients), rule.init(broken)
    for number, given in enumerate(gradients):
        if number % 2:
            state = through_bytes(trees.clone(state))
        state = rule.step(state, broken, hand.Stub(given, number))
    assert trees.differences(trees.clone(expected), trees.clone(state)) == []
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert all(state["slots"].values())
    assert not any(key.startswith("_") for key in trees.clone(state))


def test_slots_are_the_objects_that_the_instance_uses(hand):
    parameters, gradients = hand.given(SHAPES, 2)
    state = hand.drive(rg.Torch("SGD", lr=0.1, momentum=0.9), parameters, gradients)
    for key, p in parameters.items():
        assert state["cache:instance"].state[p] is state["slots"][key]
        assert list(state["slots"][key]) == ["momentum_buffer"]


def test_knobs_are_written_on_every_step(hand):
    lr, beta = rg.Cosine(0.05), rg.Linear(0.5, 0.9)
    regime = rg.Regime(optimizer=rg.Torch("NAdam", lr=lr, betas=[beta, 0.99]), batch_size=16, budget="12 steps")

    def follow(optimizer, record, number):
        group = optimizer.param_groups[0]
        group["lr"], group["betas"] = record.knobs["optimizer.lr"], (record.knobs["optimizer.betas.0"], 0.99)
        assert group["lr"] == lr(number / 12)
        assert group["betas"][0] == beta(number / 12)

    for run, twin in hand.beside(regime, lambda ps: torch.optim.NAdam(ps), follow):
        assert all(torch.equal(p, q) for p, q in zip(run.parameters.values(), twin.parameters()))


@pytest.mark.parametrize(
    "rule",
    [
        rg.Torch("Adagrad", lr=rg.Cosine(0.1)),
        rg.SAM(rg.Torch("RMSprop", lr=0.01, momentum=0.5)),
        rg.Groups([rg.Group("*.bias", rg.Torch("Rprop")), rg.Group("*", rg.Torch("NAdam"))]),
    ],
)
def test_runs_resume_in_the_same_bits(hand, rule):
    regime = rg.Regime(optimizer=rule, batch_size=8, budget="10 steps")
    assert resume_chain(lambda: Run(hand.workload(), regime, seed=3), steps=10) == []


@pytest.mark.parametrize("seam", ["freeze", "unfreeze"])
def test_a_phase_with_other_parameters_gets_another_instance(hand, seam):
    """A stale instance would train the old parameters, and the new ones never."""
    first, second = ([], [rg.Freeze("0.*")]) if seam == "freeze" else ([rg.Freeze("0.*")], [rg.Unfreeze()])
    regime = rg.Regime(
        phases=[
            rg.Phase("first", budget="50%", on_entry=first),
            rg.Phase("second", budget="50%", on_entry=second, carry=["model", "optimizer"]),
        ],
        optimizer=rg.Torch("Adam", lr=0.05),
        batch_size=8,
        budget="8 steps",
    )
    run = Run(hand.workload(), regime)
    for _ in range(4):
        run.step()
    before = run.model[0].weight.detach().clone()
    list(run)
    assert torch.equal(run.model[0].weight, before) == (seam == "freeze")
    assert set(run.states["optimizer"]["slots"]) == set(run.parameters)
    held = run.states["optimizer"]["cache:instance"].param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in run.parameters.values()]


def test_randomness_of_a_class_is_addressed(hand):
    """What a class draws from the global generator depends on the step's address alone."""

    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.grad.add_(torch.randn(p.shape))
            super().step()

    class Named(rg.Torch):
        @staticmethod
        def find(name):
            return Noisy

    ends = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        parameters, gradients = hand.given([(3,)], 4, torch.float32)
        hand.drive(Named("Noisy", lr=0.1), parameters, gradients)
        ends.append(parameters["p0"].detach())
    assert torch.equal(*ends)


REFUSED = {
    "LBFGS": "evaluates several times a step through a closure",
    "SparseAdam": "cannot be stepped with plain, dense gradients: SparseAdam does not support dense gradients",
    "Adagrd": "torch.optim has no optimizer 'Adagrd'; did you mean 'Adagrad'",
    "Optimizer": "torch.optim has no optimizer 'Optimizer'",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_driven_is_refused(name):
    with pytest.raises(rg.DeclarationError, match=f"name: .*{REFUSED[name]}"):
        rg.Torch(name)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"learning_rate": 1e-3}, "learning_rate: Adagrad has no option 'learning_rate'; here it is called 'lr'"),
        ({"foreach": rg.Cosine(1.0)}, "foreach: got Cosine.* a value that does not vary"),
        ({"maximize": rg.Cosine(1.0)}, "maximize: got Cosine.* a value that does not vary"),
        ({"lr": rg.SGD()}, r"lr: got SGD\(\); allowed: a number, a schedule or a controller"),
        ({"lr": "Cosin(1)"}, "lr: got 'Cosin.*': there is no component 'Cosin'; did you mean 'Cosine'"),
    ],
)
def test_bad_options_are_refused_by_name(options, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        rg.Torch("Adagrad", **options)


@pytest.mark.parametrize("written", ["Adam", "adam(lr=1e-3)"])
def test_a_name_of_torch_is_answered_with_how_it_is_written(written):
    with pytest.raises(
        rg.DeclarationError, match=r"there is no component '[aA]dam'; write Torch\('Adam', lr=\.\.\.\)$"
    ):
        rg.Regime(optimizer=written, batch_size=8, budget="4 steps")


def test_names_of_ours_and_misspelt_ones_are_answered_as_before():
    for written, meant in (("adamw", "AdamW"), ("Muom", "Muon")):
        with pytest.raises(rg.DeclarationError, match=f"no component '{written}'; did you mean '{meant}'"):
            rg.SAM(written)


def test_a_class_of_torch_that_cannot_be_driven_says_why():
    with pytest.raises(
        rg.DeclarationError, match=r"'LBFGS'; Torch\('LBFGS'\) is refused: LBFGS evaluates several times"
    ):
        rg.SAM("LBFGS")


def test_class_objects_are_answered_with_how_they_are_written():
    cls = torch.optim.AdamW
    with pytest.raises(rg.DeclarationError, match=r"base: got the class AdamW; write Torch\('AdamW', lr=\.\.\.\)"):
        rg.SAM(cls)
    with pytest.raises(rg.DeclarationError, match=r"base: got an instance of AdamW; write Torch\('AdamW'"):
        rg.SAM(cls([torch.zeros(1)]))
    with pytest.raises(rg.DeclarationError, match=r"name: got the class AdamW; write Torch\('AdamW'"):
        rg.Torch(cls)
    with pytest.raises(rg.DeclarationError, match="name: got the class Linear; allowed: the name of one, quoted"):
        rg.Torch(torch.nn.Linear)
    with pytest.raises(rg.DeclarationError, match="base: got 3; allowed: an Optimizer$"):
        rg.SAM(3)


def test_an_attribute_that_torch_has_says_how_it_is_written():
    with pytest.raises(AttributeError, match=r"'regimes' has no attribute 'Adam'; write Torch\('Adam', lr=\.\.\.\)$"):
        _ = rg.Adam
    with pytest.raises(AttributeError, match="'regimes' has no attribute 'Zzz'$"):
        _ = rg.Zzz


def test_schedule_below_zero_is_refused_before_training(hand):
    regime = rg.Regime(optimizer=rg.Torch("Adagrad", lr=rg.Linear(1.0, -1.0)), batch_size=8, budget="4 steps")
    with pytest.raises(rg.DeclarationError, match=r"optimizer\.lr: .*allowed: a finite number >= 0"):
        Run(hand.workload(), regime)


def test_parameters_that_the_class_refuses_are_refused_before_training(hand):
    regime = rg.Regime(optimizer=rg.Torch("Muon"), batch_size=8, budget="4 steps")
    with pytest.raises(rg.DeclarationError, match="Muon does not take these parameters: Muon only supports 2D"):
        Run(hand.workload(), regime)


def test_declaration_prints_edits_and_compares():
    rule = rg.Torch("Adagrad", lr=1, eps="1e-6 * 2")
    assert repr(rule) == "Torch('Adagrad', eps=2e-06, lr=1.0)"
    assert rule == rg.Torch("Adagrad", eps=2e-6, lr=1.0)
    base = rg.Regime(optimizer=rule, batch_size=8, budget="4 steps")
    assert base.but({"optimizer.lr": "Cosine(0.1)"}).phases[0].optimizer == rg.Torch(
        "Adagrad", lr=rg.Cosine(0.1), eps=2e-6
    )
    assert base.but({"*.lr.peak": 0.5}).phases[0].optimizer == rg.Torch("Adagrad", lr=0.5, eps=2e-6)


# -- pytorch_optimizer ---------------------------------------------------------------------------------------

OF_THE_PACKAGE = ["AdaBelief", "Adan", "Lion", "Prodigy", "LAMB", "AdEMAMix", "Tiger"]


@pytest.mark.parametrize("name", OF_THE_PACKAGE)
def test_class_of_the_package_has_its_bits_and_resumes(hand, name):
    """Prodigy and others keep a count or an estimate in the parameter group: it is in our tree, too."""
    package = pytest.importorskip("pytorch_optimizer")
    rule = rg.PytorchOptimizer(name)
    parameters, gradients = hand.given(SHAPES, 12, torch.float32)
    made = []

    def make(ps):
        made.append(package.load_optimizer(name)(ps))
        return made[0]

    expected = hand.drive_torch(make, parameters, gradients)
    state = rule.init(parameters)
    for number, given in enumerate(gradients):
        state = rule.step(through_bytes(trees.clone(state)), parameters, hand.Stub(given, number))
    assert all(torch.equal(p, expected[key]) for key, p in parameters.items())
    assert state["group"]["step"] == made[0].param_groups[0]["step"] >= 12


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sophiah", "cannot be stepped with plain, dense gradients"),
        ("alig", "cannot be stepped with plain, dense gradients: AliG requires closure"),
        ("schedulefreesgd", "leaves its evaluation weights to the user .*ScheduleFreeAdamW"),
        ("madgrad", r"keeps memory \('state\['k'\]'\) that no checkpoint holds"),
        ("adashift", "keeps memory .* that no checkpoint holds"),
        (
            "Muon",
            r"Muon wants marked parameter groups \(.use_muon. must be set.*write Muon\(\.\.\.\), the rule of that name",
        ),
        ("AdaMuon", "wants marked parameter groups .*; allowed: classes that take plain parameters"),
        ("bsam", r"BSAM does not take these options: .*missing 1 required positional argument: 'num_data'"),
        ("lionn", "has no optimizer 'lionn'; did you mean 'lion'"),
    ],
)
def test_class_of_the_package_that_cannot_be_driven_is_refused(name, sentence):
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(rg.DeclarationError, match=sentence):
        rg.PytorchOptimizer(name)


def test_a_name_of_the_package_is_answered_with_how_it_is_written():
    package = pytest.importorskip("pytorch_optimizer")
    with pytest.raises(rg.DeclarationError, match=r"no component 'SOAP'; write PytorchOptimizer\('SOAP', lr=\.\.\.\)$"):
        rg.SAM("SOAP")
    with pytest.raises(rg.DeclarationError, match=r"got the class SOAP; write PytorchOptimizer\('SOAP', lr=\.\.\.\)$"):
        rg.SAM(package.SOAP)


def test_the_package_is_not_asked_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(pytorch_optimizer_class, "find_spec", lambda name: None)
    assert rg.PytorchOptimizer.stands_for("SOAP") is None
