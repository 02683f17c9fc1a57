"""What a declaration asks is either done or refused with a sentence before the first step."""

import dataclasses
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(40, 5, generator=GENERATOR)
Y = torch.randint(0, 3, (40,), generator=GENERATOR)
SGD = rg.SGD(lr=0.1)


def workload(model=lambda: nn.Linear(5, 3), **data):
    data = {"train": (X, Y), "loss": nn.CrossEntropyLoss(), **data}
    return rg.Workload(model=model, metrics={"acc": rg.Accuracy()}, **data)


def regime(**fields):
    return rg.Regime(**{"optimizer": SGD, "batch_size": 8, "budget": "6 steps", **fields})


def refused(sentence, work=None, **fields):
    with pytest.raises(DeclarationError, match=sentence):
        rg.Run(work or workload(), regime(**fields), 0)


class Wanting(Controller):
    """A constant that asks for a signal."""

    want: str = rg.core.component.fixed("loss")

    @property
    def needs(self):
        return (self.want,)

    def value(self, state, at):
        return 0.1


# -- needs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [None, "auto", 8, 9])
def test_norms_of_micro_batches_need_two(micro_batch):
    refused(r"micro_batch: got .*two micro-batches", optimizer=rg.SGD(Wanting("micro_batch_gradient_norms")),
            micro_batch=micro_batch)  # fmt: skip


def test_without_gradients_nothing_waits_for_them():
    refused("MeZO makes no gradient, but ClipNorm", optimizer=rg.MeZO(1e-3), grad_transforms=[rg.ClipNorm(1.0)])
    refused("MeZO makes no gradient, but 'gradient_norm'", optimizer=rg.MeZO(Wanting("gradient_norm")))


def test_norms_of_micro_batches_are_all_of_the_final_evaluation():
    """Under SAM the first gradient is taken elsewhere: with one example a micro-batch, sizes and total fit the second."""
    optimizer = rg.SAM(rg.SGD(Wanting("micro_batch_gradient_norms")), rho=0.5)
    run = rg.Run(workload(), regime(optimizer=optimizer, micro_batch=3), 0)
    found = run.step().signals["micro_batch_gradient_norms"]
    assert found["sizes"] == [3.0, 3.0, 2.0]
    assert len(found["norms"]) == 3


@pytest.mark.parametrize(
    ("need", "sentence"),
    [
        ("val:accuracy", r"no metric 'accuracy'.*acc"),
        ("val:prose:loss", "val has one source"),
        ("probe:Sharpness", "no signal 'probe:Sharpness'"),
        ("test:loss", "may steer nothing"),
    ],
)
def test_needs_that_nobody_serves(need, sentence):
    refused(sentence, workload(val=(X, Y)), optimizer=rg.SGD(Wanting(need)), evaluate="50%")


def test_a_known_metric_by_source_is_served():
    work = workload(val={"code": (X, Y), "prose": (X, Y)})
    run = rg.Run(work, regime(optimizer=rg.SGD(Wanting("val:prose:acc")), evaluate="50%"), 0)
    assert sum("val/prose/acc" in record.signals for record in run) == 2
    refused("sources of val: code, prose", work, optimizer=rg.SGD(Wanting("val:verse:acc")), evaluate="50%")


# -- micro-batches, batch sizes, losses --------------------------------------------------------------------


class Noisy(nn.Module):
    """Draws random numbers without any module that says so."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(5, 3)

    def forward(self, x):
        return self.line(x + 0.1 * torch.randn_like(x))


def test_auto_sees_randomness_that_no_module_shows():
    refused("micro_batch: got 'auto', but the forward draws random numbers", workload(Noisy), micro_batch="auto")
    rg.Run(workload(), regime(micro_batch="auto"), 0).step()


def test_a_batch_of_billions_is_refused():
    with pytest.raises(DeclarationError, match="batch_size: got 8000000000"):
        regime(batch_size=8_000_000_000)


def test_a_sampler_that_learns_from_losses_needs_one_per_example():
    scalar = workload(loss=lambda model, batch: model(batch[0]).square().mean())
    with pytest.raises(DeclarationError, match="loss: gave one number for 8 examples, but LossWeighted"):
        rg.Run(scalar, regime(sampler=rg.LossWeighted()), 0).step()


# -- seams -------------------------------------------------------------------------------------------------


def two(first, second, **fields):
    phases = [rg.Phase("a", budget="3 steps", sampler=first), rg.Phase("b", budget="3 steps", sampler=second, **fields)]
    return rg.Regime(phases=phases, optimizer=SGD, batch_size=8)


def test_only_the_same_sampler_goes_on_with_a_cursor():
    carry = ("model", "cursor")
    with pytest.raises(
        DeclarationError, match=r"b\.carry: got 'cursor', but Sequential\(\) cannot go on where Reshuffle"
    ):
        rg.Run(workload(), two(rg.Reshuffle(), rg.Sequential(), carry=carry), 0)
    assert len(list(rg.Run(workload(), two(rg.Reshuffle(), rg.Reshuffle(), carry=carry), 0))) == 6


def test_a_later_phase_meets_its_data_before_anything_is_spent():
    with pytest.raises(DeclarationError, match=r"b\.sampler.*length"):
        rg.Run(workload(), two(rg.Reshuffle(), rg.LengthCurriculum(length=4)), 0)


def test_a_schedule_over_the_run_takes_steps_and_epochs():
    lr = rg.Linear(1.0, 0.0, warmup="4 steps", over="run")
    phases = [rg.Phase("a", budget="8 steps"), rg.Phase("b", budget="12 steps")]
    run = rg.Run(workload(), rg.Regime(phases=phases, optimizer=rg.SGD(lr=lr), batch_size=8), 0)
    seen = [record.knobs["optimizer.lr"] for record in run]
    assert seen[:5] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert seen[5:] == pytest.approx([1 - k / 16 for k in range(1, 16)])
    percent = rg.Linear(1.0, 0.0, warmup="20%", over="run")
    same = rg.Run(workload(), rg.Regime(phases=phases, optimizer=rg.SGD(lr=percent), batch_size=8), 0)
    assert [record.knobs["optimizer.lr"] for record in same] == seen


# -- data --------------------------------------------------------------------------------------------------


def test_a_mixture_keeps_its_own_sampler():
    mixture = rg.Mixture(a=1.0, b=1.0, sampler=rg.Sequential())
    made = regime(mixture=mixture, sampler=rg.Reshuffle())
    assert made.phases[0].mixture.sampler == rg.Sequential()
    with pytest.raises(DeclarationError, match=r"sampler: got Reshuffle\(\), but the mixture has Sequential"):
        rg.Regime(
            phases=[rg.Phase(mixture=mixture, sampler=rg.Reshuffle())], optimizer=SGD, batch_size=8, budget="6 steps"
        )


class Augmented(Dataset):
    """Random in all three generators, as people write it."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + random.random() + np.random.rand() + torch.rand(1), Y[i]


def test_random_augmentation_in_a_dataset_is_addressed():
    def weights(seed, split):
        run = rg.Run(workload(train=Augmented()), regime(), seed)
        for number, _ in enumerate(run):
            if number == split:
                random.random(), np.random.rand(), torch.rand(1)
        return run.model.weight.detach().clone()

    torch.manual_seed(0)
    before = torch.get_rng_state(), random.getstate()
    once = weights(0, None)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert torch.equal(once, weights(0, 2))
    assert not torch.equal(once, weights(1, None))


class Pair(NamedTuple):
    """A batch by name."""

    text: list
    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass
class Held:
    """A batch by attribute."""

    x: torch.Tensor
    pair: Pair


class Listed(Dataset):
    """Examples with a text."""

    def __init__(self, offset):
        self.offset = offset

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return self.offset + i


def collate(numbers):
    x = torch.tensor(numbers, dtype=torch.float32)[:, None]
    return Held(x, Pair([f"<{n}>" for n in numbers], x * 2, torch.zeros(len(numbers), dtype=torch.long)))


def test_batches_of_any_form_are_joined_over_sources():
    seen = []

    def loss(model, batch):
        assert type(batch) is Held
        assert type(batch.pair) is Pair
        seen.append(batch)
        return model(batch.x).square().mean(1)

    sources = {name: rg.DatasetSource(Listed(offset), collate) for name, offset in (("a", 0), ("b", 100))}
    work = rg.Workload(model=lambda: nn.Linear(1, 1), train=sources, loss=loss)
    list(rg.Run(work, regime(mixture=rg.Mixture(a=0.5, b=0.5)), 0, count_flops=False))
    for batch in seen:
        numbers = batch.x[:, 0].tolist()
        assert {n >= 100 for n in numbers} == {True, False}
        assert batch.pair.text == [f"<{n:.0f}>" for n in numbers]
        assert torch.equal(batch.pair.x, 2 * batch.x)


def test_a_look_at_examples_of_iterable_data_says_what_is_wrong():
    data = rg.IterableSource([(x, y) for x, y in zip(X, Y)], length=40)
    probes = [rg.Sharpness(every="1 steps")]
    records = list(rg.stream(workload(train=data), regime(sampler=rg.Sequential()), probes=probes))
    assert "read in its own order only" in records[0].signals["probe_error"]


RUN_REFUSED = [
    ({"seed": -1}, "seed: got -1; allowed: an integer from 0 on"),
    ({"seed": 1.5}, "seed: got 1.5; allowed: an integer"),
    ({"seed": None}, "seed: got None; allowed: an integer"),
    ({"seed": True}, "seed: got True; allowed: an integer"),
    ({"give_up": 0}, "give_up: got 0; allowed: an integer from 1 on"),
    ({"give_up": "3"}, "give_up: got '3'; allowed: an integer"),
    ({"probes": rg.GradientNorm()}, r"probes: got GradientNorm\(\); allowed: a list of probes"),
    ({"probes": [rg.GradientNorm]}, r"probes.0: got .*; allowed: a Probe, such as GradientNorm\(\)"),
    ({"out": ""}, "out: got ''; allowed: a folder"),
    ({"out": 3}, "out: got 3; allowed: a folder"),
]


@pytest.mark.parametrize(("options", "said"), RUN_REFUSED, ids=repr)
def test_options_of_a_run_are_refused_before_anything_is_spent(options, said):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps")
    with pytest.raises(rg.DeclarationError, match=f"^{said}"):
        rg.run(workload(), regime, progress=False, **options)
