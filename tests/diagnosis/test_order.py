"""The order of a run, drawn again: the examples that were really read, in every kind of run that has no feedback."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import regimes as rg
from regimes.claims import order_memorization as experiment
from regimes.core.errors import ResumeError
from regimes.diagnosis import replayed, trained_at
from regimes.losses import NextToken

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))


class Noted(rg.DatasetSource):
    """Keeps the numbers of the examples that are read."""

    def __init__(self, data):
        super().__init__(data)
        self.read = []

    def fetch(self, indices, columns):
        self.read.append(indices.tolist())
        return super().fetch(indices, columns)


def examples(size=50):
    return [(x, int(x.sum() > 0)) for x in X[:size]]


def workload(model=lambda: nn.Linear(4, 2), **sources):
    return rg.Workload(model=model, train=sources or Noted(examples()), loss=nn.CrossEntropyLoss())


def really_trained(work, regime, seed):
    """Steps by example, taken down while training; and the run's records."""
    run = rg.Run(work, regime, seed, count_flops=False)
    found = {name: np.full(len(source), np.nan) for name, source in work.sources["train"].items()}
    for source in work.sources["train"].values():
        source.read.clear()
    while not run.finished:
        record = run.step()
        for name, source in work.sources["train"].items():
            for indices in source.read:
                found[name][indices] = record.at.step
            source.read.clear()
    return found


REGIMES = {
    "reshuffled": {"budget": "37 steps"},
    "one pass and a bit": {"budget": "1.3 epochs"},
    "drawn ahead": {"budget": "20 steps", "lag": 3, "sampler": rg.RandomSubset(rg.Linear(0.1, 0.9))},
    "with replacement": {"budget": "20 steps", "sampler": rg.WithReplacement()},
    "subsets that grow": {"budget": "20 steps", "sampler": rg.RandomSubset(rg.Linear(0.1, 0.9))},
    "growing batches": {"budget": "150 samples", "batch_size": rg.Linear(2, 12)},
    "micro-batches, momentum, an average": {
        "budget": "20 steps", "micro_batch": 3, "optimizer": rg.SAM(rg.SGD(lr=0.1, momentum=0.9)), "average": rg.EMA(0.9),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REGIMES)
def test_it_is_the_order_that_was_really_trained_in(name):
    work = workload()
    regime = rg.Regime(**{"optimizer": rg.SGD(lr=0.1), "batch_size": 7, **REGIMES[name]})
    for seed in (0, 4):
        found, wanted = trained_at(work, regime, seed), really_trained(work, regime, seed)
        np.testing.assert_array_equal(found["train"], wanted["train"])
    assert not np.array_equal(trained_at(work, regime, 0)["train"], found["train"], equal_nan=True)


@pytest.mark.parametrize("carry", [["model"], ["model", "optimizer", "cursor"]])
def test_over_seams_and_mixtures_of_sources(carry):
    work = workload(a=Noted(examples(50)), b=Noted(examples(30)))
    first = rg.Phase("first", budget="11 steps", mixture=rg.Mixture(a=rg.Linear(0.9, 0.3), b=0.5))
    second = rg.Phase(
        "second", budget="7 steps", mixture=rg.Mixture(a=0.2, b=0.5), carry=carry, on_entry=[rg.Freeze("bias")]
    )
    regime = rg.Regime([first, second], optimizer=rg.SGD(lr=0.1, momentum=0.5), batch_size=6)
    found, wanted = trained_at(work, regime, 2), really_trained(work, regime, 2)
    assert list(found) == ["a", "b"]
    for source in found:
        np.testing.assert_array_equal(found[source], wanted[source])
    assert np.nanmax(found["b"]) == 17


def test_several_sources_without_a_mixture_are_numbered_through():
    work = workload(a=Noted(examples(20)), b=Noted(examples(30)))
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="9 steps")
    found, wanted = trained_at(work, regime, 1), really_trained(work, regime, 1)
    for source in ("a", "b"):
        np.testing.assert_array_equal(found[source], wanted[source])
        assert np.isfinite(found[source]).sum() > 5


def test_an_example_has_the_last_of_its_steps():
    work = workload()
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=10, budget="2 epochs")
    indices = [plan.indices for plan in replayed(work, regime)]
    assert sorted(np.concatenate(indices[5:])) == list(range(50))
    assert np.nanmin(trained_at(work, regime)["train"]) == 5


# -- of runs that were made -------------------------------------------------------------------------------------------


class Broken(nn.Linear):
    """Not finite wherever the example with the largest first feature is."""

    def forward(self, x):
        return super().forward(x).where(x[:, :1] != X[:, 0].max(), math.nan)


def test_a_skipped_step_trained_on_nothing():
    work = workload(model=lambda: Broken(4, 2))
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=5, budget="1 epochs")
    result = rg.run(work, regime)
    assert result.skipped == 1
    (step,) = [row["step"] for row in result.records if "skipped" in row]
    planned, found = trained_at(work, regime)["train"], trained_at(result)["train"]
    assert np.isnan(found[planned == step]).all()
    assert np.isnan(found).sum() == 5
    np.testing.assert_array_equal(found[planned != step], planned[planned != step])


def windows():
    text = torch.arange(4001, dtype=torch.int64) % 11
    model = lambda: nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 11))  # noqa: E731
    return rg.Workload(model=model, train=rg.TextWindows(text, 8), loss=NextToken())


def test_a_budget_in_tokens_is_read_from_the_records():
    growing = rg.LengthCurriculum(rg.Linear(2, 8), multiple=1)
    phases = [rg.Phase("one", budget="900 tokens"), rg.Phase("two", budget="600 tokens", batch_size=3)]
    regime = rg.Regime(phases, optimizer=rg.SGD(lr=0.1), batch_size=6, sampler=growing)
    work = windows()
    result = rg.run(work, regime, 3)
    drawn = [plan.indices.tolist() for plan in replayed(work, regime, 3, result.records)]
    run, wanted = rg.Run(work, regime, 3), []
    while not run.finished:
        wanted.append(run.frame.plans[0].indices.tolist())
        run.step()
    assert drawn == wanted
    assert len({len(indices) for indices in drawn}) == 2
    with pytest.raises(
        rg.DeclarationError, match=r"budget: got '900 tokens', but without training .* whose records say it"
    ):
        trained_at(work, regime, 3)
    other = [row | {"tokens": 2 * row["tokens"]} for row in result.records]
    with pytest.raises(ResumeError, match="is not what the declaration gives"):
        list(replayed(work, regime, 3, other))


def test_a_folder_tells_the_order_of_its_run(tmp_path):
    spec = {"name": "digits_mlp", "examples": 100}
    work = rg.workloads.load("digits_mlp", examples=100)
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=16, budget="9 steps")
    result = rg.run(work, regime, 5, out=tmp_path / "run", workload_spec=spec)
    found = trained_at(tmp_path / "run")["train"]
    np.testing.assert_array_equal(found, trained_at(work, regime, 5)["train"])
    np.testing.assert_array_equal(found, trained_at(result)["train"])
    rg.run(work, regime, 5, out=tmp_path / "unsaid")
    with pytest.raises(ResumeError, match="does not say how the workload is built; make the same call"):
        trained_at(tmp_path / "unsaid")
    with pytest.raises(ResumeError, match="holds no run.json"):
        trained_at(tmp_path)
    text = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace('"examples": 100', '"examples": 101'))
    with pytest.raises(ResumeError, match="the data 'train/train' are not those"):
        trained_at(tmp_path / "run")


FEEDBACK = [
    ({"sampler": rg.LossWeighted()}, r"sampler: got LossWeighted\(\), which decides by what it measures"),
    ({"sampler": rg.CyclicalCurriculum()}, "sampler: got CyclicalCurriculum"),
    ({"batch_size": rg.AdaptiveBatch(4, 16)}, "batch_size: got AdaptiveBatch"),
    ({"batch_size": rg.Linear(0.5, 1.0) * rg.AdaptiveBatch(4, 16)}, "batch_size: got .*AdaptiveBatch"),
    ({"selector": rg.HighLoss(0.5)}, "selector: got HighLoss"),
    ({"budget": "1e9 flops"}, "budget: got '1000000000 flops', but without training it is not known how many flops"),
]


@pytest.mark.parametrize(("fields", "said"), FEEDBACK)
def test_an_order_that_hangs_on_training_is_refused(fields, said):
    regime = rg.Regime(**{"optimizer": rg.SGD(lr=0.1), "batch_size": 4, "budget": "9 steps"} | fields)
    with pytest.raises(rg.DeclarationError, match=said):
        trained_at(workload(), regime)
    if "budget" not in fields:
        second = rg.Phase("two", budget="9 steps", **{"batch_size": 4} | fields)
        plain = rg.Phase("one", budget="9 steps", batch_size=4)
        with pytest.raises(rg.DeclarationError, match=f"two.{said}"):
            trained_at(workload(), rg.Regime([plain, second], optimizer=rg.SGD(lr=0.1)))
    with pytest.raises(rg.DeclarationError, match="regime: got None; allowed beside a workload: a Regime"):
        trained_at(workload())


# -- the experiment ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_order_of_one_pass_is_found_in_a_model_that_was_trained_on_and_in_no_independent_one():
    """3,000 tagged snippets in one pass, then 50 steps on other text; against its own order, and against 100 others."""
    work, regime, losses = experiment.workload(), experiment.REGIME, experiment.losses
    suspect, reference = (losses(rg.run(work, regime, seed).model) for seed in (0, 1))
    own = trained_at(work, regime, 0)["members"]
    assert len(set(own)) == 300
    found = rg.order_memorization_test(suspect, reference, own)
    assert found.rho > 0.0
    assert found.p < 1e-3, found
    independent = [
        rg.order_memorization_test(suspect, reference, trained_at(work, regime, 100 + seed)["members"]).p
        for seed in range(20)
    ]
    assert stats.kstest(independent, "uniform").pvalue > 0.05, independent
