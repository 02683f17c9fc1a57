"""Which family a rule is of, for all who ask: muP, transfer, the batch."""

import math

import pytest
import torch

import regimes as rg
from regimes.model_transforms.growth import RATES
from regimes.scaling.families import FAMILIES, families, family_of
from regimes.scaling.transfer import LAWS, changes, transfer

ADAMW = rg.AdamW(lr=0.01)


def regime(rule):
    return rg.Regime(optimizer=rule, batch_size=8, budget="9 steps")


@pytest.mark.parametrize(
    ("rule", "family"),
    [
        (rg.SGD(), "sgd"),
        (rg.ScheduleFreeSGD(), "sgd"),
        (rg.Torch("SGD"), "sgd"),
        (rg.PytorchOptimizer("sgd"), "sgd"),
        (rg.ScheduleFreeAdamW(), "adaptive"),
        (rg.Torch("AdamW"), "adaptive"),
        (rg.Torch("RMSprop"), "adaptive"),
        (rg.PytorchOptimizer("adam"), "adaptive"),
        (rg.Lion(), "sign"),
        (rg.PytorchOptimizer("lion"), "sign"),
        (rg.Muon(), "orthogonal"),
        (rg.NorMuon(), "orthogonal"),
        (rg.Torch("Muon"), "orthogonal"),
        (rg.Torch("Muon", adjust_lr_fn="original"), "orthogonal"),
        (rg.NorMuon(adjust_lr="match_rms_adamw"), "matched orthogonal"),
        (rg.Torch("Muon", adjust_lr_fn="match_rms_adamw"), "matched orthogonal"),
        (rg.LAMB(), "trust ratio"),
        (rg.LARS(), "trust ratio"),
        (rg.SGDSaI(), None),
        (rg.Conda(), None),
        (rg.MeZO(), None),
        (rg.DoG(), None),
        (rg.Torch("Adagrad"), None),
        (rg.PytorchOptimizer("AdaBelief"), None),
    ],
    ids=repr,
)
def test_families_by_class_ours_and_others(rule, family):
    assert family_of(rule) == family


def test_a_class_of_somebody_else_is_of_no_family_whatever_its_name():
    class SGD(rg.SGD):
        pass

    assert family_of(SGD()) is None


def test_every_family_has_a_law_for_every_size_and_mup_knows_none_besides():
    named = {*FAMILIES.values(), "matched orthogonal"}
    assert {what: set(laws) for what, laws in LAWS.items()} == dict.fromkeys(LAWS, named)
    assert all(set(rates) < named for rates in RATES.values())
    for laws in LAWS.values():
        assert all(law.least <= law.exponent <= law.most for law in laws.values())


def test_each_rate_has_the_family_of_its_own_rule():
    muon = rg.groups.muon(rg.Muon(lr=0.02), rest=rg.groups.no_decay(ADAMW))
    paths = [
        f"main.optimizer.base.groups.{place}.lr" for place in ("0.rule", "1.rule.groups.0.rule", "1.rule.groups.1.rule")
    ]
    assert families(regime(rg.SAM(muon)), paths) == dict(zip(paths, ("orthogonal", "adaptive", "adaptive")))


@pytest.mark.parametrize(
    ("rule", "path", "sentence"),
    [
        (rg.KFAC(rg.SGD()), "main.optimizer.base.lr", r"main\.optimizer: got KFAC\(SGD\(\)\), of whose steps nothing is known"),
        (rg.LANTON(ADAMW), "main.optimizer.base.lr", r"main\.optimizer: got LANTON"),
        (rg.ZerothOrder(rg.SGD()), "main.optimizer.base.lr", r"main\.optimizer: got ZerothOrder"),
        (rg.SGDSaI(), "main.optimizer.lr", r"main\.optimizer: got SGDSaI\(\).*allowed: SGD, .*Torch\('SGD'\)"),
        (rg.SGD(), "main.batch_size", r"main\.batch_size: got main\.batch_size"),
    ],
    ids=["KFAC", "LANTON", "ZerothOrder", "SGDSaI", "no rule"],
)  # fmt: skip
def test_rules_of_no_known_family_are_refused(rule, path, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        families(regime(rule), [path])


@pytest.mark.parametrize(
    ("family", "power", "least", "most"),
    [
        ("sgd", -1.0, -1.0, 0.0),
        ("adaptive", -1.0, -1.0, -0.5),
        ("sign", -1.0, -1.0, -0.5),
        ("orthogonal", 0.0, -0.5, 0.0),
        ("matched orthogonal", -0.5, -1.0, -0.5),
        ("trust ratio", -0.5, -0.5, 0.0),
    ],
)
def test_the_width_moves_rates_by_the_family(family, power, least, most):
    moved = transfer(1.0, 1.0, 1.0, changes("width=64->256"), family)
    assert (moved.rate, moved.low, moved.high) == (4.0**power, 4.0**least, 4.0**most)


def spectral_norms(rule, gradient, widths=(64, 256)):
    """Of the first step from the identity, whose spectral norm is 1 at every width."""
    found = []
    for width in widths:
        p, g = torch.eye(width, dtype=torch.float64), gradient(width)
        rule.update(p, g, rule.slots(p), 1)
        found.append(torch.linalg.matrix_norm(p - torch.eye(width, dtype=torch.float64), 2).item())
    return found


def kept(norms):
    """The exponent with which the spectral norm of a step stays from one width to four times that."""
    return -math.log(norms[1] / norms[0], 4.0)


def rank_one(width):
    return torch.outer(*torch.randn(2, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


def full_rank(width):
    """Signs with orthogonal rows: Hadamard's matrix."""
    made = torch.ones(1, 1, dtype=torch.float64)
    while len(made) < width:
        made = torch.kron(made, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64))
    return made


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("gradient", [rank_one, full_rank])
def test_orthogonal_laws_keep_the_spectral_norm_of_a_step(adjust, gradient):
    """With coefficients that converge to singular values of 1."""
    rule = rg.Muon(
        lr=0.1, momentum=0.0, weight_decay=0.0, adjust_lr=adjust, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=60,
        iteration_dtype="float64",
    )  # fmt: skip
    law = LAWS["width"][family_of(rule)]
    assert kept(spectral_norms(rule, gradient)) == pytest.approx(law.exponent, abs=1e-9)


@pytest.mark.parametrize("rule", [rg.LAMB(lr=0.1, weight_decay=0.0), rg.LARS(lr=0.1)], ids=["LAMB", "LARS"])
def test_laws_of_the_trust_ratio_keep_the_spectral_norm_of_steps_of_low_and_of_full_rank(rule):
    law = LAWS["width"]["trust ratio"]
    assert law.exponent == law.least == pytest.approx(kept(spectral_norms(rule, rank_one)), abs=1e-4)
    assert law.most == pytest.approx(kept(spectral_norms(rule, full_rank)), abs=1e-9)


@pytest.mark.parametrize("rule", [rg.AdamW(lr=0.1, weight_decay=0.0), rg.Lion(lr=0.1)], ids=["AdamW", "Lion"])
def test_laws_of_entries_keep_the_spectral_norm_of_steps_of_low_and_of_full_rank(rule):
    law = LAWS["width"][family_of(rule)]
    assert law.exponent == law.least == pytest.approx(kept(spectral_norms(rule, rank_one)), abs=1e-4)
    assert law.most == pytest.approx(kept(spectral_norms(rule, full_rank)), abs=1e-9)


def test_the_batch_of_an_adaptive_rule_reaches_from_nothing_to_linear():
    moved = transfer(1.0, 1.0, 1.0, changes("batch=8->32"), "adaptive")
    assert (moved.rate, moved.low, moved.high) == (2.0, 1.0, 4.0)
    assert "1812.06162" in moved.reasons[0]


def test_a_family_without_a_law_is_refused():
    with pytest.raises(rg.DeclarationError, match="family: got 'adaptve'; did you mean 'adaptive'"):
        transfer(1.0, 1.0, 1.0, changes("width=1->2"), "adaptve")
