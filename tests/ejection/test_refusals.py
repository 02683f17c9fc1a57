"""What no script can be written for is refused before anything is written, with its key and what is allowed."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.notation import parse
from regimes.ejection import eject
from regimes.study import files

TINY = {"name": "regimes.testing.conformance.tiny:workload", "task": "classes", "sources": ()}
ONE = {"optimizer": "SGD(lr=0.1)", "batch_size": 4, "budget": "8 steps"}
REFUSED = {
    "budget: got '1000000 flops'; allowed in a script: steps, samples": {"budget": "1e6 flops"},
    "optimizer.lr: got RangeTest; allowed in a script: Plateau, NoiseScaleGrowth": {
        "optimizer": "SGD(lr=RangeTest(0.001, 1.0, '4 steps'))"
    },
    "optimizer: got MKOR, which asks for more than gradients; allowed": {"optimizer": "MKOR(SGD(lr=0.1), every=2)"},
    "optimizer.base: got SAM; allowed in a script: a rule that evaluates once": {"optimizer": "SAM(SAM(SGD(lr=0.1)))"},
    "optimizer.momentum: got a momentum that reaches 0; allowed": {"optimizer": "SGD(lr=0.1, momentum=Linear(0, 0.9))"},
    "momentum: got a momentum that reaches 0; allowed in a script": {  # of so many steps as the noise asks for
        "optimizer": "SGD(lr=0.1, momentum=Linear(0.9, warmup='10%'))",
        "batch_size": "NoiseScaleGrowth(4, end=12)",
        "micro_batch": 2,
    },
    "loss: got Distillation.*keeps a state of its own; allowed": {"loss": "Distillation('self', ground_truth=0.3)"},
    "sampler: got OrderedPrefix.*allowed in a script: samplers that learn from losses alone": {
        "sampler": "OrderedPrefix()"
    },
    "average: got 'val:loss' of averaged weights; allowed": {
        "optimizer": "SGD(lr=0.1 * Plateau())",
        "average": "EMA(0.9)",
        "evaluate": "4 steps",
    },
    "lr: got .*DampedCosine.*whose formula no script knows; allowed: Clip": {
        "optimizer": "SGD(lr=DampedCosine(0.1, 2.5, 1.5))"
    },
}


def regime(fields):
    given = {k: parse(v) if isinstance(v, str) and "(" in v else v for k, v in (ONE | fields).items()}
    return rg.Regime(**given)


@pytest.mark.parametrize("said", REFUSED)
def test_a_part_that_no_script_has(said):
    with pytest.raises(rg.DeclarationError, match=said):
        eject(TINY, regime(REFUSED[said]))


def test_the_key_of_several_phases_begins_with_the_phase():
    phases = [rg.Phase("a", budget="50%", optimizer=rg.SGD(lr=0.1), batch_size=4)]
    phases.append(rg.Phase("b", budget="50%", optimizer=parse("MKOR(SGD(lr=0.1), every=2)"), batch_size=4))
    with pytest.raises(rg.DeclarationError, match=r"^b\.optimizer: got MKOR"):
        eject(TINY, rg.Regime(phases=phases, budget="8 steps"))


def test_carried_state_of_other_options():
    phases = [rg.Phase("a", budget="50%", optimizer=rg.SGD(lr=0.1), batch_size=4)]
    phases.append(
        rg.Phase("b", budget="50%", optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=4, carry=["model", "optimizer"])
    )
    with pytest.raises(
        rg.DeclarationError, match=r"^b\.carry: got state of another set of parameters.*allowed in a script"
    ):
        eject(TINY, rg.Regime(phases=phases, budget="8 steps"))


def test_a_workload_that_has_no_name():
    x = torch.zeros(8, 3)
    work = rg.Workload(model=lambda: nn.Linear(3, 2), train=(x, torch.zeros(8).long()), loss=nn.CrossEntropyLoss())
    with pytest.raises(
        rg.DeclarationError, match="workload: got .*; allowed in a script: what can be named, 'digits_mlp'"
    ):
        eject(work, regime({}))


def test_no_regime_and_a_comparison(tmp_path):
    with pytest.raises(rg.DeclarationError, match="regime: got None; allowed: a Regime"):
        eject("digits_mlp")
    file = tmp_path / "study.yaml"
    file.write_text(
        "workload: digits_mlp\ncompare: {margin: 0.01, seeds: 6}\narms:\n"
        "  a: {optimizer: SGD(lr=0.1), batch_size: 32, budget: 8 steps}\n  b: {like: a, lr: 0.2}\n"
    )
    with pytest.raises(rg.DeclarationError, match="declares a comparison; allowed: a file that declares one run"):
        eject(files.read(file))


def test_a_component_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "from regimes.core.kinds import GradTransform\n\nclass Nothing(GradTransform):\n"
        "    def apply(self, state, gradients, ctx):\n        return gradients\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_rules

    declared = rg.Regime(
        optimizer=rg.SGD(lr=0.1), batch_size=4, budget="8 steps", grad_transforms=[own_rules.Nothing()]
    )
    with pytest.raises(
        rg.DeclarationError, match="grad_transforms: got Nothing; allowed in a script: ClipNorm, ClipValue, Noise"
    ):
        eject(TINY, declared)


def test_a_rule_of_the_users_own_is_imported(tmp_path):
    """The module is loaded where the script is written; the script has to load it by itself."""
    (tmp_path / "own_signs.py").write_text(
        "import torch\nfrom regimes.core.component import knob\nfrom regimes.core.kinds import Knob\n"
        "from regimes.core.registry import register\n"
        "from regimes.optimizers.tensorwise.rule import Tensorwise\n\n@register\nclass OwnSigns(Tensorwise):\n"
        "    lr: Knob = knob(0.01, low=0)\n\n    def update(self, p, g, slot, t):\n        p.sub_(self.lr * g.sign())\n"
    )
    file = tmp_path / "own.yaml"
    file.write_text(
        "modules: [own_signs]\nworkload: digits_mlp\n"
        "regime: {optimizer: OwnSigns(lr=0.001), batch_size: 32, budget: 20 steps}\n"
    )

    def python(*words):
        return subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    script = python("-m", "regimes", "eject", "own.yaml")
    assert "import own_signs" in script
    (tmp_path / "train.py").write_text(script)
    assert "val/loss" in python("train.py")
