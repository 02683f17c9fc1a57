"""Noise of a run that is made once: of its evaluation data, by bootstrap; of its end, by late forks."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import regimes as rg
from regimes.core.errors import DeclarationError, ResumeError
from regimes.study.evaluation_noise import _draws

REGIME = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="30 steps", sampler=rg.Reshuffle())


def trained(lr, seed=0, out=None, work=None):
    work = work or rg.workloads.load("digits_mlp")
    return rg.run(work, REGIME.but({"optimizer.lr": lr}), seed, out=out, progress=False)


@pytest.fixture(scope="module")
def pair():
    return trained(0.1), trained(0.02)


@pytest.mark.parametrize(("metric", "better"), [("test/loss", None), ("test/acc", "higher")])
def test_difference_is_the_metrics_and_sd_that_of_a_mean(pair, metric, better):
    found = rg.evaluation_noise(*pair, metric, better=better)
    direction = 1 if better else -1
    assert found.difference == pytest.approx(direction * (pair[0].metrics[metric] - pair[1].metrics[metric]), abs=1e-6)
    work = pair[0].workload
    x, y = work.sources["test"]["test"].fetch(np.arange(len(work.sources["test"]["test"])), {})
    with torch.no_grad():
        outputs = [one.model(x) for one in pair]
    each = [
        (out.argmax(1) == y).double()
        if better
        else torch.nn.functional.cross_entropy(out, y, reduction="none").double()
        for out in outputs
    ]
    d = (each[0] - each[1]).numpy()
    assert found.sd == pytest.approx(d.std() / math.sqrt(len(d)), rel=0.05)
    told = stats.bootstrap(
        (d * direction,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    )
    assert found.low == pytest.approx(told.confidence_interval.low, abs=0.15 * found.sd)
    assert found.high == pytest.approx(told.confidence_interval.high, abs=0.15 * found.sd)


def test_the_interval_covers_over_data_sets():
    """Data sets from one population: the difference of the population is covered as often as said."""
    stream, hits, repetitions = np.random.default_rng(0), 0, 300
    for _ in range(repetitions):
        mass = stream.integers(1, 9, 120).astype(float)
        one, other = (mass * (1.0 + level + 0.3 * stream.standard_normal(120)) for level in (0.0, 0.05))
        ends = np.quantile(_draws(np.stack([one, other, mass])), [0.025, 0.975])
        hits += ends[0] <= -0.05 <= ends[1]
    interval = stats.binomtest(hits, repetitions).proportion_ci(0.999)
    assert interval.low <= 0.95 <= interval.high + 0.01


def test_groups_are_drawn_together():
    """Examples of a document share their luck: ten copies of each make the noise of the documents, not less."""
    torch.manual_seed(0)
    x, doc = torch.randn(40, 3).repeat_interleave(10, 0), torch.arange(40).repeat_interleave(10)
    rows = rg.Tensors(x=x, doc=doc)

    def loss(model, batch):
        return model(batch["x"]).square().mean(1)

    work = rg.Workload(model=lambda: torch.nn.Linear(3, 2), train=rows, val=rows, loss=loss)
    one, other = (trained(lr, work=work) for lr in (0.1, 0.01))
    alone, together = rg.evaluation_noise(one, other), rg.evaluation_noise(one, other, by="doc")
    assert (alone.drawn, together.drawn, together.of) == (400, 40, "values of 'doc'")
    assert together.sd == pytest.approx(alone.sd * math.sqrt(10), rel=0.1)


def test_what_cannot_be_drawn_is_refused(pair, tmp_path):
    for asked, said in (
        ({"metric": "test/lost"}, "metric: there is no metric 'lost' that examples have one by one"),
        ({"metric": "tets/loss"}, "metric: there is no data 'tets'"),
        ({"metric": "acc"}, "better: say whether lower or higher"),
        ({"by": "doc"}, "by: source 'test' of test has no column 'doc'"),
    ):
        with pytest.raises(DeclarationError) as caught:
            rg.evaluation_noise(*pair, **asked)
        assert str(caught.value).startswith(said)
    with pytest.raises(DeclarationError, match="baseline: was trained and judged on other data"):
        rg.evaluation_noise(pair[0], trained(0.1, work=rg.workloads.load("teacher_student")))


def test_folders_say_the_same_as_results(tmp_path):
    results = [trained(lr, out=tmp_path / f"{lr}") for lr in (0.1, 0.02)]
    spec = rg.run(
        rg.workloads.load("digits_mlp"), REGIME, 0, out=tmp_path / "named", progress=False, workload_spec="digits_mlp"
    )
    assert rg.evaluation_noise(tmp_path / "named", results[1]) == rg.evaluation_noise(spec, results[1])


# -- late forks ------------------------------------------------------------------------------------------------------


def test_tails_share_their_beginning_and_differ_after_it(tmp_path):
    parent = trained(0.1, out=tmp_path / "base")
    found = rg.late_forks(parent, forks=3, out=tmp_path / "forks")
    assert (found.at, found.steps, found.value) == (24, 30, parent.metrics["test/loss"])
    assert len({found.value, *found.values}) == 4
    rows = [
        rg.fork(parent, at=24, seed=1 + n, out=tmp_path / "forks" / f"fork-{n}", progress=False).records
        for n in range(3)
    ]
    assert all(found[:24] == parent.records[:24] and found[24:] != parent.records[24:] for found in rows)
    # The first fork has the seed after the run's: on the run's own it would be the run again, and no noise.
    assert found.values == tuple(
        rg.fork(parent, at=24, seed=parent.seed + 1 + n, out=tmp_path / f"again-{n}", progress=False).metrics[
            "test/loss"
        ]
        for n in range(3)
    )
    assert found.sd == pytest.approx(np.std([found.value, *found.values], ddof=1))
    assert "a lower bound on the noise of a run, as the first 80% is shared" in str(found)
    assert rg.late_forks(parent, forks=3, out=tmp_path / "forks") == found


def test_later_forks_vary_less_than_runs():
    """The bound is a bound: tails from 80% vary less than whole runs do."""
    import tempfile

    folder = tempfile.mkdtemp()
    parent = trained(0.1, out=f"{folder}/base")
    tails = rg.late_forks(parent, forks=5, at=0.9).sd
    runs = np.std([trained(0.1, seed).metrics["test/loss"] for seed in range(6)], ddof=1)
    assert 0 < tails < runs


def test_forks_that_say_nothing_are_refused(tmp_path):
    parent = trained(0.1, out=tmp_path / "base")
    for asked, said in (
        ({"forks": 1}, "forks: got 1; allowed: 2 or more"),
        ({"at": 1.0}, "at: got 1.0; allowed: a share"),
        ({"metric": "test/acd"}, "metric: there is no metric 'test/acd'; did you mean"),
    ):
        with pytest.raises(DeclarationError) as caught:
            rg.late_forks(parent, **asked)
        assert str(caught.value).startswith(said)
    (tmp_path / "base" / "result.json").unlink()
    with pytest.raises(ResumeError, match="is not finished"):
        rg.late_forks(parent)
