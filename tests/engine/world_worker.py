"""Runs that `test_distributed` compares: ``torchrun ... world_worker.py OUT STOP NAME ...``, or in one process."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.core.notation import parse
from regimes.core.regime import Regime
from regimes.testing.conformance import tiny
from regimes.testing.random_regimes import draw

BASE = "optimizer=SGD(lr=0.1, momentum=0.9), batch_size=10, micro_batch=3, budget='14 steps'"
#: Name -> (tiny task, regime): dropout, padding, feedback, several evaluations, captures, example gradients, trials.
CASES = {
    "plain": ("classes", f"Regime({BASE})"),
    "dropout": ("dropout", f"Regime({BASE}, average=EMA(0.9), grad_transforms=[ClipNorm(0.5)])"),
    "padding": ("padded", f"Regime({BASE})"),
    "feedback": ("classes", f"Regime({BASE}, sampler=LossWeighted(), lag=1)"),
    "selector": ("classes", f"Regime({BASE}, selector=HighLoss(0.5))"),
    "sam": ("classes", "Regime(optimizer=SAM(AdamW(lr=0.01), rho=0.1), batch_size=8, micro_batch=2, budget='9 steps')"),
    "mezo": ("classes", "Regime(optimizer=MeZO(lr=0.01), batch_size=8, micro_batch=2, budget='9 steps')"),
    "mkor": ("classes", "Regime(optimizer=MKOR(SGD(lr=0.01)), batch_size=8, micro_batch=2, budget='9 steps')"),
    "kfac": ("classes", "Regime(optimizer=KFAC(SGD(lr=0.01)), batch_size=8, micro_batch=2, budget='9 steps')"),
    "newton": (
        "classes",
        "Regime(optimizer=GradientRegularizedNewton(gamma=8), batch_size=8, micro_batch=2, budget='9 steps')",
    ),
    "growing": (
        "classes",
        "Regime(optimizer=AdamW(lr=0.01), batch_size=AdaptiveBatch(4, 12), micro_batch=1, budget='120 samples')",
    ),
    "noise": (
        "classes",
        "Regime(optimizer=AdamW(lr=0.01), batch_size=NoiseScaleGrowth(8, 12), micro_batch=2, budget='120 samples')",
    ),
    "rollouts": (
        "rollouts",
        "Regime(optimizer=AdamW(lr=0.05), loss=HybridPostTraining(0.4), batch_size=8, micro_batch=2, budget='9 steps')",
    ),
    "overflow": ("steep", "Regime(optimizer=SGD(lr=3e38), batch_size=8, micro_batch=2, budget='5 steps')"),
    "trials": (
        "classes",
        "Regime(optimizer=SGD(lr=RangeTest(0.001, 1.0, '5 steps')), batch_size=8, micro_batch=2, budget='12 steps')",
    ),
}


def dropout() -> rg.Workload:
    """A net that draws random numbers."""
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    y = (x.sum(1) > 0).long()
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.4), nn.Linear(8, 2))  # noqa: E731
    return rg.Workload(model=model, train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss(), name="dropout")


def padded() -> rg.Workload:
    """Sequences of different lengths: micro-batches have different numbers of tokens."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(0, 5, (48, 7), generator=generator)
    lengths = torch.randint(1, 8, (48, 1), generator=generator)
    y = torch.where(torch.arange(7) < lengths, x.roll(1, 1), -100)
    model = lambda: nn.Sequential(nn.Embedding(5, 6), nn.Linear(6, 5))  # noqa: E731
    return rg.Workload(model=model, train=(x, y), val=(x, y), loss=rg.NextToken(), name="padded")


def classes() -> rg.Workload:
    """A net in which nothing interacts."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))
    y = (x.prod(1) > 0).long()
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))  # noqa: E731
    return rg.Workload(
        model=model,
        train=(x, y),
        val=(x, y),
        loss=nn.CrossEntropyLoss(),
        metrics={"acc": rg.Accuracy()},
        name="classes",
    )


def steep() -> rg.Workload:
    """A net whose losses soon are not finite, in some micro-batches before others."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(3))
    y = (x.prod(1) > 0).long()
    return rg.Workload(
        model=lambda: nn.Linear(6, 2), train=(x, y), val=(x, y), loss=nn.CrossEntropyLoss(), name="steep"
    )


OWN = {"classes": classes, "steep": steep, "dropout": dropout, "padded": padded}


def declared(name: str, folder: Path) -> tuple[rg.Workload, Regime, tuple, int]:
    """What a case, or a regime drawn into a folder, trains."""
    if name in CASES:
        task, text = CASES[name]
        return OWN[task]() if task in OWN else tiny.workload(task), parse(text), (), 3
    task, text, probes, seed = json.loads((folder / f"{name}.json").read_text())
    regime = parse(text)
    mixed = any(phase.mixture is not None for phase in regime.phases)
    return without_statistics(task, mixed), regime, tuple(parse(probe) for probe in probes), seed


def write_drawn(number: int, folder: Path) -> bool:
    """Draw a regime, by one process: a drawn one may begin with weights that are trained for it. Say whether there is one."""
    try:
        drawn = draw(random.Random(number))
    except DeclarationError:  # what was drawn cannot even be declared
        return False
    regime = drawn.regime.but(**{f"{phase.name}.micro_batch": 1 for phase in drawn.regime.phases})
    told = [drawn.task, repr(regime), [repr(probe) for probe in drawn.probes], drawn.seed]
    (folder / f"{number}.json").write_text(json.dumps(told))
    return True


def without_statistics(task: str, mixed: bool) -> rg.Workload:
    """A tiny task whose net has a norm without running statistics, which several processes refuse."""
    model, data, loss = (tiny.TASKS | tiny.SPECIAL)[task]

    def build() -> nn.Module:
        net = model()
        for name, module in net.named_children():
            if isinstance(module, nn.BatchNorm1d):
                setattr(net, name, nn.GroupNorm(2, module.num_features))
        return net

    train = {name: data(place) for place, name in enumerate("ab")} if mixed else data(0)
    return rg.Workload(model=build, train=train, val=data(99), loss=loss(), name=f"tiny {task}")


def train(name: str, out: Path, stop: int | None = None) -> str:
    """Train a case in a folder, up to `stop` steps; say why it was refused."""
    try:
        work, regime, probes, seed = declared(name, out.parent)
        steps = rg.stream(work, regime, seed, probes=probes, out=out / name, checkpoint="15%", validate="20%")
        for number, _ in enumerate(steps):
            if number + 1 == stop:
                steps.close()
                break
    except DeclarationError as why:
        return f"refused: {why}"
    except rg.RunFailed as why:
        return f"failed: {why}"
    return "trained"


def main() -> None:
    """Train the cases that the command line names."""
    torch.set_num_threads(1)
    stop = int(sys.argv[2]) or None
    for case in sys.argv[3:]:
        said = train(case, Path(sys.argv[1]), stop)
        if torch.distributed.get_rank() == 0:
            print(case, said, flush=True)
    # Else gloo's threads may still run where the interpreter ends, which then aborts now and then.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    import world_worker  # a run's identity names the module of its model: the same in every process

    world_worker.main()
