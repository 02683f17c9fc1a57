"""Which learning rate: the search on known curves, whole runs, transfer to larger ones, refusals."""

import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import regimes as rg
from regimes.cli import group
from regimes.scaling.families import families
from regimes.scaling.transfer import changes, transfer
from regimes.study import files
from regimes.study.rate_search import RUNGS, SAFE, Found, RateSearch
from regimes.study.tune_lr import TunedRate, _rates, _transferred

QUADRATIC = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1)), batch_size=16, budget="64 steps")


def searched(loss, low=1e-4, high=1.0, start=math.inf):
    """A search told by a function of (share, rate)."""
    search = RateSearch(low, high, start)
    while (asked := search.ask()) is not None:
        share, rates = asked
        search.tell([loss(share, rate) for rate in rates])
    return search


def bowl(share, rate, best=0.02, width=2.0):
    return (1.0 + share**-0.5) * math.exp((math.log(rate / best) / width) ** 2)


@pytest.mark.parametrize("best", [3e-4, 0.02, 0.4])
def test_an_exact_parabola_is_found_from_anywhere(best):
    search = searched(lambda share, rate: bowl(share, rate, best))
    found = search.found()
    assert search.cost == pytest.approx(3.0)
    assert found.rate == pytest.approx(best, rel=0.02)
    # The width of the parabola gives the interval: SAFE above the least loss.
    half = 2.0 * math.sqrt(math.log1p(SAFE))
    assert math.log(found.high / found.low) == pytest.approx(2 * half, rel=0.05)
    assert not found.at_edge
    assert found.edge is None


def test_the_edge_lies_between_what_trained_and_what_did_not():
    search = searched(lambda share, rate: bowl(share, rate) if rate < 0.15 else math.inf)
    assert 0.05 < search.found().edge < 0.3
    blown = searched(lambda share, rate: bowl(share, rate) if rate < 0.15 else 50.0, start=40.0)
    assert blown.found() == search.found()


def test_an_optimum_that_falls_with_length_is_followed_and_one_that_rises_is_not():
    falls = searched(lambda share, rate: bowl(share, rate, 0.02 * share**-0.5)).found()
    assert falls.rate < 0.7 * 0.02 * RUNGS[-1][0] ** -0.5
    rises = searched(lambda share, rate: bowl(share, rate, 0.02 * share**0.5)).found()
    assert rises.rate <= 0.02 * RUNGS[-1][0] ** 0.5 * 1.001


def test_noise_of_five_percent_costs_three_percent_at_most_in_nine_of_ten_searches():
    draw, regrets = np.random.default_rng(0), []
    for _ in range(200):
        found = searched(lambda share, rate: bowl(share, rate) * math.exp(0.05 * draw.standard_normal())).found()
        regrets.append(bowl(1.0, found.rate) / bowl(1.0, 0.02) - 1.0)
    assert np.quantile(regrets, 0.9) < 0.03


def test_what_has_hardly_learned_says_nothing_about_the_optimum():
    """Losses of a deep network on digits: of the short runs two alone have come half of the way of the best."""
    search = RateSearch(1.31e-5, 0.131, start=2.46)
    search.ask()
    search.tell([2.342, 2.339, 2.329, 2.3, 2.242, 2.035, 1.949, 2.315])
    _, rates = search.ask()
    assert math.sqrt(rates[0] * rates[-1]) == pytest.approx(0.0352, rel=0.01)


def test_after_a_whole_run_that_overfits_the_next_trains_as_much_as_the_best_short_one():
    """The loss is of rate times steps alone, least at 0.02 / 16; a sixteenth is noisier."""
    search = searched(lambda share, rate: bowl(1.0, rate * share, 0.02 / 16) + 0.1 * (share < 0.1), start=10.0)
    short, first, second = search.rungs[1], search.rungs[2], search.rungs[3]
    assert first.losses[0] > min(short.losses)
    assert second.rates[0] == pytest.approx(first.rates[0] / 8)
    assert search.found().rate == second.rates[0]


def test_a_search_says_whether_its_first_runs_have_learned_anything():
    assert searched(bowl, start=100.0).learned
    assert not searched(lambda share, rate: 99.0 if share < 0.1 else bowl(share, rate), start=100.0).learned


def test_a_whole_run_that_diverges_is_followed_by_one_at_a_lower_rate():
    search = searched(lambda share, rate: math.inf if share * rate > 0.005 else bowl(share, rate), start=10.0)
    first, second = search.rungs[2:]
    assert math.isinf(first.losses[0])
    assert second.rates[0] == pytest.approx(first.rates[0] / 8)
    assert search.found().rate == second.rates[0]


def test_a_range_that_ends_before_the_optimum_is_left_and_said():
    found = searched(lambda share, rate: bowl(share, rate, 30.0)).found()
    assert found.at_edge
    assert found.rate > 1.0


def test_whole_runs_are_kept_and_not_computed_again(tmp_path):
    work = rg.workloads.load("quadratic", examples=64)
    first = rg.tune_lr(work, QUADRATIC, out=tmp_path, progress=False)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert len(files) == 14
    again = rg.tune_lr(work, QUADRATIC, out=tmp_path, progress=False)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")} == files
    saved = json.loads((tmp_path / "tune_lr.json").read_text())
    assert saved["rate"] == first.found.rate
    assert (tmp_path / "rates.svg").read_text().startswith("<svg")
    assert first.flops == sum(json.loads(path.read_text())["work"]["flops"] for path in files)


def test_groups_and_phases_keep_their_proportions(tmp_path):
    rule = rg.Groups([rg.Group("@vectors", rg.SGD(lr=0.02)), rg.Group("*", rg.SGD(lr=rg.Linear(0.1, final=0.05)))])
    regime = rg.Regime(optimizer=rule, batch_size=32, budget="64 steps")
    found = rg.tune_lr(rg.workloads.load("digits_mlp"), regime, out=tmp_path, progress=False)
    groups = found.regime.phases[0].optimizer.groups
    factor = groups[0].rule.lr / 0.02
    assert factor == pytest.approx(found.found.rate / 0.02, rel=1e-5)
    assert groups[1].rule.lr(0.5) == pytest.approx(0.075 * factor, rel=1e-5)
    assert found.declared == 0.02


def test_transfer_follows_the_laws_and_says_so():
    moved = transfer(0.01, 0.005, 0.02, changes("width=64->256,depth=2->8,budget=1->4"), "adaptive")
    assert moved.rate == pytest.approx(0.01 * 4**-1.0 * 4**-0.5 * 4**-0.32)
    assert moved.low == pytest.approx(0.005 * 4**-1.0 * 4**-1.0 * 4**-0.5)
    assert moved.high == pytest.approx(0.02 * 4**-0.5)
    assert len(moved.reasons) == 3


@pytest.mark.parametrize(("family", "power"), [("sgd", 1.0), ("adaptive", 0.5)])
def test_a_batch_levels_off_at_the_noise_scale(family, power):
    wanted = changes("batch=8->64")
    far, near = (transfer(1.0, 1.0, 1.0, wanted, family, scale).rate for scale in (1e9, 1e-6))
    assert far == pytest.approx(8**power, rel=1e-6)
    assert near == pytest.approx(1.0, rel=1e-6)
    assert transfer(1.0, 1.0, 1.0, wanted, family).rate == pytest.approx(8**power)
    assert transfer(1.0, 1.0, 1.0, wanted, family, 64.0).rate == pytest.approx((9 / 2) ** power)


FOUND = Found(0.04, 0.02, 0.08, None, False)


def moved(rule, sizes):
    """What becomes of each rate, the first of which is tuned to 0.04."""
    regime = rg.Regime(optimizer=rule, batch_size=16, budget="64 steps")
    rates = _rates(regime, rg.workloads.load("quadratic", examples=64))
    return _transferred(None, regime, FOUND, changes(sizes), rates, families(regime, rates))


@pytest.mark.parametrize(
    ("rule", "power", "least", "most"),
    [
        (rg.Torch("AdamW", lr=0.1), -1.0, -1.0, -0.5),
        (rg.Torch("SGD", lr=0.1), -1.0, -1.0, 0.0),
        (rg.ScheduleFreeSGD(lr=0.1), -1.0, -1.0, 0.0),
        (rg.Muon(lr=0.1), 0.0, -0.5, 0.0),
        (rg.NorMuon(lr=0.1), 0.0, -0.5, 0.0),
        (rg.Muon(lr=0.1, adjust_lr="match_rms_adamw"), -0.5, -1.0, -0.5),
        (rg.LAMB(lr=0.1), -0.5, -0.5, 0.0),
        (rg.PytorchOptimizer("Lion", lr=0.1), -1.0, -1.0, -0.5),
        (rg.SAM(rg.SGD(lr=0.1)), -1.0, -1.0, 0.0),
    ],
    ids=repr,
)
def test_a_rate_follows_the_law_of_its_rule(rule, power, least, most):
    (found,) = moved(rule, "width=64->256").values()
    assert (found.rate, found.low, found.high) == (0.04 * 4**power, 0.02 * 4**least, 0.08 * 4**most)


def test_each_of_several_rates_follows_its_own_law_from_its_own_place():
    rule = rg.groups.muon(
        rg.Muon(lr=0.02), rest=rg.Groups([rg.Group("@norms", rg.SGD(lr=0.2)), rg.Group("*", rg.AdamW(lr=0.01))])
    )
    found = moved(rule, "width=64->256,depth=2->8")
    rates = [one.rate for one in found.values()]
    assert list(found) == [
        f"main.optimizer.groups.{place}.lr" for place in ("0.rule", "1.rule.groups.0.rule", "1.rule.groups.1.rule")
    ]
    assert rates == pytest.approx([0.04 * 4**-0.5, 0.4 * 4**-1.5, 0.02 * 4**-1.5])
    made = TunedRate(tuple(found), 0.02, FOUND, QUADRATIC, "val/loss", (), 1, 0.0, Path("."), found)
    told = str(made).splitlines()
    assert [line.split(":")[0] for line in told if line.startswith("for the run of these sizes")] == [
        f"for the run of these sizes ({path})" for path in found
    ]
    assert sum(line.startswith("width 64 -> 256") for line in told) == 3


@pytest.mark.parametrize(
    "rule",
    [
        "SGDSaI()",
        "Torch('Adagrad', lr=0.1)",
        "MeZO()",
        "KFAC(SGD())",
        "LANTON(AdamW())",
        "Groups([Group('*', rule=DoG())])",
    ],
)
def test_a_transfer_without_a_law_is_refused_before_anything_is_spent(tmp_path, rule):
    with pytest.raises(rg.DeclarationError, match="of whose steps nothing is known here; allowed: SGD"):
        rg.tune_lr(
            rg.workloads.load("quadratic", examples=64), QUADRATIC.but(optimizer=rule), out=tmp_path, progress=False,
            transfer_to="width=1->2",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_table_and_the_edit(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(
        "workload: {name: quadratic, examples: 64}\nregime:\n  optimizer: SGD(lr=Cosine(0.1))\n  batch_size: 16\n"
        "  budget: 64 steps\n"
    )
    asked = ["tune-lr", str(file), "--out", str(tmp_path / "o"), "--transfer", "batch=16->32"]
    result = CliRunner().invoke(group, asked)
    assert result.exit_code == 0, result.output
    assert "recommended: " in result.output
    assert "--set main.optimizer.lr.peak=" in result.output
    assert "batch 16 -> 32" in result.output
    facts = json.loads(CliRunner().invoke(group, [*asked, "--json"]).output)
    assert facts["runs"] == 3.0
    moved = facts["transferred"]["main.optimizer.lr"]
    assert facts["rate"] < moved["rate"] <= 2 * facts["rate"]
    assert f"for the run of these sizes: {moved['rate']:.4g}, somewhere" in result.output


@pytest.mark.parametrize("several", [False, True])
def test_the_command_that_is_printed_trains_what_was_tuned_at_the_rate_that_was_found(tmp_path, monkeypatch, several):
    monkeypatch.chdir(tmp_path)
    regime = "{optimizer: SGD(lr=Cosine(0.1)), batch_size: 16, budget: 64 steps}"
    arms = f"arms: {{one: {regime}, two: {regime}}}\ncompare: {{seeds: 6, margin: 0.1, validate: null}}\n"
    file = tmp_path / "my own.yaml"
    file.write_text("workload: {name: quadratic, examples: 64}\n" + (arms if several else f"regime: {regime}\n"))
    asked = ["tune-lr", str(file), "--set", "budget=32 steps", *(["--arm", "two"] if several else [])]
    result = CliRunner().invoke(group, asked)
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("to train with it: ")]
    command = shlex.split(line.removeprefix("to train with it: "))
    peak = next(float(part.rpartition("=")[2]) for part in command if "lr.peak=" in part)
    read = files.read(command[2], command[4::2])
    regimes = list(read.arms.values()) if several else [read.regime]
    assert command[:2] == ["regimes", "compare" if several else "run"]
    assert [regime.budget for regime in regimes] == [rg.Duration(32.0, "steps")] * len(regimes)
    assert [regime.phases[0].optimizer.lr.peak for regime in regimes] == [*[0.1] * several, peak]
    assert CliRunner().invoke(group, command[1:]).exit_code == 0


def test_the_interval_ends_before_a_rate_that_ended_worse():
    """A cliff: above 0.025 the loss is a tenth higher, where the parabola of all sees none of it."""
    found = searched(lambda share, rate: bowl(share, rate, width=6.0) * (1.1 if rate > 0.025 else 1.0)).found()
    assert found.rate < found.high < 0.025
    wide = searched(lambda share, rate: bowl(share, rate, width=6.0)).found()
    assert wide.high > 0.025


def test_rungs_of_which_all_runs_end_worse_than_untrained_are_a_result():
    search = searched(lambda share, rate: 0.9 + rate / 20 if share < 0.1 else 20.0 + rate, 1e-3, 1.0, start=1.0)
    assert all(math.isinf(loss) for rung in search.rungs[1:] for loss in rung.losses)
    assert all(math.isfinite(loss) for rung in search.told for loss in rung.losses)
    assert search.found().rate > 0


@pytest.mark.parametrize(
    ("lr", "budget", "peak"),
    [
        (rg.Cosine(0.1, warmup="1 epochs"), "16 epochs", 0.1),
        (rg.Cosine(0.1, warmup="64 samples"), "64 steps", 0.1),
        (rg.WSD(0.1, "2000 steps"), "8000 steps", 0.1),
        (rg.from_table([(0, 0.0), (2000, 0.3), (8000, 0.1)]), "8000 steps", 0.3),
    ],
)
def test_a_peak_is_that_of_the_run_as_long_as_it_is(lr, budget, peak):
    work = rg.workloads.load("quadratic", examples=64)
    regime = rg.Regime(optimizer=rg.SGD(lr=lr), batch_size=16, budget=budget)
    assert _rates(regime, work) == {"main.optimizer.lr": pytest.approx(peak)}


def test_every_seed_is_paid_for(tmp_path):
    work = rg.workloads.load("quadratic", examples=64)
    found = rg.tune_lr(work, QUADRATIC, seeds=2, metric="loss", out=tmp_path, progress=False)
    assert found.metric == "val/loss"
    assert found.runs == 6.0
    assert len(list(tmp_path.glob("runs/*/result.json"))) == 28


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metric": "test/loss"}, "metric: got 'test/loss'; allowed: a metric of validation data"),
        ({"low": 0.1, "high": 0.2}, "high: got 0.2; allowed: at least ten times low (0.1)"),
        ({"low": -1.0}, "low: got -1.0; allowed: a rate above 0"),
        ({"seeds": 0}, "seeds: got 0; allowed: 1 or more"),
        ({"transfer_to": "wdth=1->2"}, "did you mean 'width'"),
        ({"transfer_to": "width=1-2"}, "transfer: got 'width=1-2'; allowed: for example"),
        ({"transfer_to": "width=1->2,width=2->3"}, "each size once"),
        ({"transfer_to": "batch=64->256"}, "transfer: got a batch of 64 to start from; allowed: 16, which is tuned"),
        ({"metric": "val/loss", "transfer_to": "batch=16->32,depth=0->2"}, "two numbers above 0"),
    ],
)
def test_refusals_come_before_anything_is_spent(tmp_path, options, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        rg.tune_lr(rg.workloads.load("quadratic", examples=64), QUADRATIC, out=tmp_path, progress=False, **options)
    assert sentence in str(why.value)
    assert not list(tmp_path.iterdir())


def test_a_rule_without_a_rate_and_a_controlled_one_are_refused(tmp_path):
    work = rg.workloads.load("quadratic", examples=64)
    with pytest.raises(rg.DeclarationError, match="no knob is called lr"):
        rg.tune_lr(work, QUADRATIC.but(optimizer="RecursiveRidge()"), out=tmp_path, progress=False)
    with pytest.raises(rg.DeclarationError, match="allowed: a number or a schedule"):
        rg.tune_lr(work, QUADRATIC.but({"optimizer": "SGD(lr=RangeTest(0.001, 1.0))"}), out=tmp_path, progress=False)


def test_a_range_in_which_everything_diverges_is_said(tmp_path):
    work = rg.workloads.load("quadratic", examples=64)
    with pytest.raises(rg.RegimesError, match="every rate from 1e\\+03 to 1e\\+06 diverged"):
        rg.tune_lr(work, QUADRATIC, low=1e3, high=1e6, out=tmp_path, progress=False)
