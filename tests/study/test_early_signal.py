"""Early signals: ranks against scipy's, intervals by simulation, and what pruning by them would have dropped."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError, ResumeError
from regimes.study.early_rules import Point, interval, kept, overall, spearman, within_groups
from regimes.study.early_runs import Ended, _declared, points_of
from regimes.study.early_signal import _promising

BASE = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="40 steps")
RATES = (0.002, 0.02, 0.01, 0.005, 0.05)


def sweep(early, final, groups=None, seed=0):
    groups = groups or [None] * len(early)
    return [Point(str(i), seed, e, f, g) for i, (e, f, g) in enumerate(zip(early, final, groups))]


# -- ranks -------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("early_signal")
def test_the_correlation_of_one_sweep_is_scipys():
    stream = np.random.default_rng(0)
    for n in (4, 7, 30):
        x, y = stream.integers(0, 6, (2, n)).astype(float)  # with ties
        assert overall([sweep(x, y)]).rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-14)
    lost = np.array([1.0, math.inf, 2.0, math.inf, 0.5])
    ended = np.array([3.0, math.inf, 2.0, 9.0, 1.0])
    ranked = stats.spearmanr(np.where(np.isinf(lost), 99, lost), np.where(np.isinf(ended), 99, ended)).statistic
    assert overall([sweep(lost, ended)]).rho == pytest.approx(ranked, abs=1e-14)


@pytest.mark.exact("early_signal")
def test_several_sweeps_are_averaged_and_make_the_interval_no_narrower():
    one, other = sweep([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]), sweep([5, 4, 3, 2, 1], [1, 2, 3, 5, 4], seed=1)
    both = overall([one, other])
    assert both.rho == pytest.approx(0.0, abs=1e-15)
    assert (both.n, (both.low, both.high)) == (5, pytest.approx(interval(0.0, 5)))


@pytest.mark.exact("early_signal")
def test_a_setting_that_moves_both_sides_is_told_apart_from_a_signal():
    """Three groups whose levels agree; within each the order is reversed (Simpson)."""
    early = [1, 2, 3, 11, 12, 13, 21, 22, 23]
    final = [3, 2, 1, 13, 12, 11, 23, 22, 21]
    groups = ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    points = sweep(early, final, groups)
    assert overall([points]).rho == pytest.approx(stats.spearmanr(early, final).statistic, abs=1e-14) == 0.8
    assert within_groups([points]).rho == -1.0
    assert within_groups([points]).n == 9 - 2
    assert within_groups([sweep(early, final, list("abcdefghi"))]) is None
    one_group = within_groups([sweep(early, final, ["a"] * 9)])
    assert (one_group.rho, one_group.n) == (overall([points]).rho, 9)


def test_ranks_that_are_all_equal_say_nothing():
    found = overall([sweep([1.0] * 5, [1, 2, 3, 4, 5])])
    assert (math.isnan(found.rho), found.low, found.high) == (True, -1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "n"), [(0.0, 12), (0.6, 12), (0.9, 12), (0.6, 24), (0.9, 24)])
def test_intervals_hold_the_true_correlation(rho, n):
    """Bivariate normal: Spearman's is 6/pi asin(rho / 2)."""
    stream, inside, repetitions = np.random.default_rng(1), 0, 4000
    truth = 6 / math.pi * math.asin(rho / 2)
    for _ in range(repetitions):
        x, e = stream.standard_normal((2, n))
        low, high = interval(spearman([(x, rho * x + math.sqrt(1 - rho**2) * e)]), n)
        inside += low <= truth <= high
    print(f"rho {rho}, n {n}: {inside / repetitions:.3f}")
    assert inside / repetitions > 0.93


@pytest.mark.exact("early_signal")
@pytest.mark.parametrize(("rho", "n"), [(0.5, 28), (-0.3, 9)])
def test_the_interval_is_bonett_and_wrights(rho, n):
    half = stats.norm.isf(0.025) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    ends = [math.tanh(math.atanh(rho) + side * half) for side in (-1, 1)]
    assert interval(rho, n) == pytest.approx(ends, abs=1e-12)


@pytest.mark.exact("early_signal")
def test_the_window_is_the_second_half_of_the_steps_up_to_a_share():
    rows = [{"step": step, "loss": 2.0**step} for step in range(10)]
    whole = [Ended(BASE.but({"optimizer.lr": lr}), 0, {"val/loss": lr}, rows) for lr in (0.1, 0.2)]
    for at, expected in ((0.5, (4 + 8 + 16) / 3), (0.4, (4 + 8) / 2), (0.1, 1.0), (0.05, 1.0)):
        points, said = points_of(whole, "loss", at, "val/loss", ("lower", "lower"), None)
        assert [point.early for point in points] == [expected] * 2
        assert [point.final for point in points] == [0.1, 0.2]
        assert said == []
    cut = Ended(
        BASE.but({"optimizer.lr": 0.3}), 0, {}, rows[:3]
    )  # diverged after three steps, where all that ended took ten
    points, _ = points_of([*whole, cut], "loss", 0.2, "val/loss", ("higher", "higher"), "batch_size")
    assert points[2].early == -2.0
    assert (points[2].final, points[2].group) == (math.inf, "8")
    assert points_of([*whole, cut], "loss", 0.8, "val/loss", ("lower", "lower"), None)[0][2].early == math.inf
    other = Ended(BASE.but({"batch_size": 4}), 0, {"val/loss": 1.0}, rows[:6])
    assert points_of([*whole, other, cut], "loss", 0.2, "val/loss", ("lower", "lower"), None)[1] == [
        "left out: 1 that diverged, after a share of their steps that is not known"
    ]


# -- what pruning would have dropped --------------------------------------------------------------------------------


@pytest.mark.exact("early_signal")
def test_keeping_all_drops_nothing():
    stream = np.random.default_rng(2)
    sweeps = [sweep(stream.random(9), stream.random(9), seed=seed) for seed in range(50)]
    found = kept(sweeps, 1.0, 0.1)
    assert (found.dropped, found.lost, found.saved, found.low) == (0, 0.0, 0.0, 0.0)


@pytest.mark.exact("early_signal")
def test_what_is_dropped_and_lost_by_hand():
    sweeps = [sweep([1, 2, 3, 4], [0.5, 0.1, 0.9, 0.3]), sweep([4, 1, 3, 2], [0.5, 0.7, 0.9, 0.3], seed=1)]
    found = kept(sweeps, 0.25, 0.2)
    assert (found.dropped, found.sweeps, found.lost) == (2, 2, pytest.approx((0.4 + 0.4) / 2))
    assert found.saved == pytest.approx(0.8 * 0.75)
    assert (found.low, found.high) == pytest.approx(tuple(stats.binomtest(2, 2).proportion_ci(0.95)))
    half = kept(sweeps, 0.5, 0.2)
    assert (half.dropped, half.lost) == (0, 0.0)
    assert kept(sweeps, 0.51, 0.2).saved == pytest.approx(0.8 * 0.25)  # 2.04 of 4 are three
    tied = kept([sweep([1, 1, 1, 2], [0.5, 0.1, 0.9, 0.3])], 0.25, 0.2)
    assert (tied.dropped, tied.saved) == (0, pytest.approx(0.8 * 0.25))  # no tie is broken at the cost of the best


def test_a_signal_without_information_drops_the_best_as_often_as_chance():
    stream = np.random.default_rng(3)
    sweeps = [sweep(stream.random(8), stream.random(8), seed=seed) for seed in range(2000)]
    for share in (0.25, 0.5, 0.75):
        assert stats.binomtest(kept(sweeps, share, 0.1).dropped, 2000, 1 - share).pvalue > 1e-3


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five rates on two seeds; the gradient norm is recorded at every step."""
    root = tmp_path_factory.mktemp("early")
    for lr in RATES:
        for seed in range(2):
            rg.run(
                rg.workloads.load("quadratic"), BASE.but({"optimizer.lr": lr}), seed, out=root / f"{lr}-{seed}",
                probes=[rg.GradientNorm(every="1 steps")], progress=False, validate="25%",
            )  # fmt: skip
    return root


def test_runs_are_read_from_their_folder_their_paths_or_their_results(folder):
    found = rg.early_signal(folder, at=0.5)
    assert (found.configurations, found.sweeps) == (5, 2)
    assert rg.early_signal(sorted(path.parent for path in folder.glob("*/run.json")), at=0.5) == found
    work = rg.workloads.load("quadratic")
    again = [
        rg.run(work, BASE.but({"optimizer.lr": lr}), s, progress=False, validate="25%") for lr in RATES for s in (0, 1)
    ]
    assert rg.early_signal(again, at=0.5) == found


def test_what_is_read_is_the_mean_over_the_second_half_of_the_steps_up_to_then(folder):
    """By hand, from the records: of loss and of a probe; of validation, what there is in that window."""
    for metric in ("loss", "gradient_norm", "val/loss"):
        rhos = []
        for seed in range(2):
            early, final = [], []
            for lr in RATES:
                rows = [json.loads(line) for line in (folder / f"{lr}-{seed}" / "records.jsonl").open()]
                early.append(np.mean([row[metric] for row in rows[10:20] if metric in row]))
                ends = [
                    json.loads((folder / f"{lr}-{s}" / "result.json").read_text())["metrics"]["val/loss"]
                    for s in (0, 1)
                ]
                final.append(np.mean(ends))
            rhos.append(stats.spearmanr(early, final).statistic)
        assert rg.early_signal(folder, metric, 0.5, prefer="lower").correlation.rho == pytest.approx(
            np.mean(rhos), abs=1e-14
        )
    turned = rg.early_signal(folder, at=0.5, prefer="higher").correlation.rho
    assert turned == -rg.early_signal(folder, at=0.5).correlation.rho


def test_a_run_that_diverged_is_the_worst_and_the_least_promising(folder):
    work = rg.workloads.load("quadratic")
    for seed in range(2):
        with pytest.raises(rg.RunFailed):
            rg.run(work, BASE.but({"optimizer.lr": 1e30}), seed, out=folder / f"wild-{seed}", progress=False)
    found = rg.early_signal(folder, at=0.5, keep=[1.0, 0.9])
    assert found.configurations == 6
    assert [keep.dropped for keep in found.keeps] == [0, 0]
    assert found.correlation.rho > 0.9


def test_trials_and_arms_of_a_study_are_sweeps_of_their_own(tmp_path):
    arms = {"base": BASE, **{f"a{i}": BASE.but({"batch_size": 4 + i}) for i in range(3)}}
    study = rg.compare(
        rg.workloads.load("quadratic"), arms, margin=0.01, seeds=2, assume="normal", tune={"optimizer.lr": rg.times(1 / 4, 4)},
        trials=3, equal="steps", out=tmp_path / "s", progress=False,
    )  # fmt: skip
    found = rg.early_signal(study, at=0.25, within="batch_size")
    chosen = {arm["regime"] for arm in study.to_dict()["arms"]}
    tried = {path.read_text() for path in (tmp_path / "s" / "runs").glob("*/run.json") if "1000000" in path.read_text()}
    again = sum(any(json.loads(text)["regime"] == regime for text in tried) for regime in chosen)
    assert (found.configurations, found.sweeps) == (12 + 4 - again, 3)
    assert found.within.n == found.configurations - 3


def test_the_command_says_the_same(folder):
    run = CliRunner()
    words = [
        "early-signal",
        str(folder),
        "--metric",
        "gradient_norm",
        "--prefer",
        "lower",
        "--at",
        "0.5",
        "--keep",
        "0.5",
        "--within",
        "batch_size",
    ]
    found = rg.early_signal(folder, "gradient_norm", 0.5, prefer="lower", keep=[0.5], within="batch_size")
    assert json.loads(run.invoke(group, [*words, "--json"]).stdout) == json.loads(json.dumps(found.to_dict()))
    said = run.invoke(group, words).output
    assert said.rstrip("\n") == str(found)
    assert "within equal batch_size: +" in said
    assert "keep 50%: the best is dropped on 0 of 2 seeds [0%, 84%]" in said
    refused = run.invoke(group, ["early-signal", str(folder), "--at", "2"])
    assert (refused.exit_code, refused.output.strip()) == (
        2, "--at: got 2.0; allowed: a share of the steps, above 0 and below 1",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"metric": "gradient_nrom"},
            "metric: there is no 'gradient_nrom' in the records; did you mean 'gradient_norm'?",
        ),
        ({"metric": "val/loss", "at": 0.1}, "at: got 'val/loss', which was not measured from 5% to 10% of the steps"),
        ({"final": "val/los"}, "better: say whether lower or higher val/los is better; allowed: 'lower' or 'higher'"),
        ({"final": "val/acc", "better": "higher"}, "final: there is no final metric 'val/acc'"),
        ({"prefer": "low"}, "prefer: got 'low'; allowed: 'lower' or 'higher'"),
        ({"keep": [0.0]}, "keep: got [0.0]; allowed: shares above 0, at most 1"),
        ({"within": "optimizer.rate"}, "within"),
    ],
)
def test_what_cannot_be_told_is_refused(folder, asked, said):
    with pytest.raises(DeclarationError) as caught:
        rg.early_signal(folder, **asked)
    assert str(caught.value).startswith(said)


def test_too_few_and_mixed_runs_are_refused(folder, tmp_path):
    few = [folder / f"{lr}-0" for lr in RATES[:3]]
    with pytest.raises(DeclarationError, match="runs: got 3 configurations; allowed: at least 4 that share a seed"):
        rg.early_signal(few, at=0.5)
    with pytest.raises(ResumeError, match="there are no finished runs of regimes below"):
        rg.early_signal(tmp_path)
    other = rg.run(rg.workloads.load("digits_mlp"), BASE, 0, out=tmp_path / "digits", progress=False)
    with pytest.raises(DeclarationError, match="got runs of digits_mlp, quadratic; allowed: of one workload"):
        rg.early_signal([*few, other])


def test_which_values_are_promising_is_declared_or_has_to_be_said(tmp_path):
    """Of an accuracy a study says it; a small one early was taken for promising once."""
    arms = {f"lr {lr:g}": BASE.but({"optimizer.lr": lr, "budget": "40 steps"}) for lr in (1e-4, 1e-3, 0.01, 0.1)}
    work = rg.workloads.load("digits_mlp")
    study = rg.compare(
        work, arms, metric="val/acc", better="higher", margin=0.01, seeds=2, assume="normal", validate="10%", out=tmp_path / "s",
        progress=False,
    )  # fmt: skip
    asked = {"metric": "val/acc", "at": 0.5, "final": "val/acc"}
    said = rg.early_signal(study, **asked, better="higher", prefer="higher")
    assert said.correlation.rho > 0.5
    for runs in (study, tmp_path):
        found = rg.early_signal(runs, **asked)
        assert (found.prefer, found.better, found.correlation) == ("higher", "higher", said.correlation)
    assert rg.early_signal(study, **(asked | {"final": "val/loss"})).prefer == "higher"
    assert rg.early_signal(study, "loss", 0.5, final="val/acc").prefer == "lower"
    # Runs alone say nothing, but what the final metric's direction says of the same metric.
    alone = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert rg.early_signal(alone, **asked, better="higher").prefer == "higher"
    assert rg.early_signal(alone, **(asked | {"final": "test/acc"}), better="higher").prefer == "higher"
    with pytest.raises(DeclarationError, match="better: say whether lower or higher"):
        rg.early_signal(alone, **asked)
    with pytest.raises(
        DeclarationError, match="prefer: say whether lower or higher .*as nothing says which val/acc is promising"
    ):
        rg.early_signal(alone, **(asked | {"final": "val/loss"}))


def test_studies_that_do_not_agree_declare_no_direction():
    asked = [{"metric": "val/acc", "better": word} for word in ("higher", "lower")] + [
        {"metric": "m", "better": "higher"}
    ]
    assert _declared(asked) == {"m": "higher"}
    # What is said of the very metric counts before what is said of it on other data.
    assert _promising("val/acc", {"val/acc": "higher", "test/acc": "lower"}) == "higher"
    with pytest.raises(DeclarationError, match="prefer: say whether lower or higher"):
        _promising("train/acc", {"val/acc": "higher", "test/acc": "lower"})
