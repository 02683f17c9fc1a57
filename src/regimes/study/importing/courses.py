"""The course of a few steps by either trainer, the order of the data being ours for both."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Sampler

from regimes.core import paths
from regimes.core.kinds import Schedule
from regimes.core.progress import Progress
from regimes.core.regime import Regime
from regimes.engine.batches import Batches
from regimes.engine.compile import compile_regime, epochs
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.study.importing.tiny import EPOCH, Rows

#: More points of a schedule than this are not compared.
_POINTS = 10_000


class Course(NamedTuple):
    """Losses and rates step by step, and the weights in the end."""

    losses: list[float]
    rates: list[float]
    weights: dict[str, Tensor]


def lr_of(regime: Regime) -> Any:
    """What stands at ``lr``: the same in every group."""
    optimizer: Any = regime.optimizer
    rule = optimizer.groups[0].rule if hasattr(optimizer, "groups") else optimizer
    return paths.get(rule, "lr")


def by_the_engine(work: Workload, regime: Regime, seed: int, steps: int) -> Course:
    """Train by the engine."""
    run = Run(work, regime, seed, count_flops=False)
    records = [run.step() for _ in range(steps)]
    fixed, rates = lr_of(regime), []
    for record in records:
        used = [value for path, value in record.knobs.items() if path.endswith(".lr")]
        rates.append(float(used[0] if used else fixed))
    weights = {name.removeprefix("network."): p.detach() for name, p in run.model.named_parameters()}
    return Course([float(record.signals["loss"]) for record in records], rates, weights)


class _Order(Sampler):
    """What a run of ours draws, an epoch at a time."""

    def __init__(self, work: Workload, regime: Regime, seed: int, steps: int) -> None:
        batches, self.epoch, self.at = Batches(work, regime.sampler, seed), work.view().size, 0
        count = math.ceil(steps / EPOCH) * EPOCH
        self.order = [int(i) for _ in range(count) for i in batches.draw(int(regime.batch_size)).indices]

    def __len__(self) -> int:
        return self.epoch

    def __iter__(self) -> Iterator[int]:
        begin, self.at = self.at, self.at + self.epoch
        return iter(self.order[begin : self.at])


@contextlib.contextmanager
def trainer(network: Any, arguments: dict[str, Any], train: Rows, val: Rows, order: Any, steps: int) -> Iterator[Any]:
    """Inside, a Trainer that follows `order`, stops after some steps, keeps what it does, and says nothing."""
    import transformers

    class Watched(transformers.Trainer):
        def _get_train_sampler(self, *args: Any) -> Any:
            return order

        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().training_step(*args, **kwargs)  # of one micro-batch, as it enters the sum of the step
            if len(self.losses) == self.state.global_step:
                self.losses.append(0.0)
                self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.losses[-1] += loss.item()
            return loss

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = control.should_training_stop or state.global_step >= steps

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with tempfile.TemporaryDirectory() as folder:
            told = transformers.TrainingArguments(**_told(arguments, folder, transformers.TrainingArguments))
            made = Watched(network, told, train_dataset=train, eval_dataset=val, callbacks=[Stop()])
            made.losses, made.rates = [], []
            made.remove_callback(transformers.PrinterCallback)
            yield made
    finally:
        transformers.logging.set_verbosity(level)


def _told(arguments: dict[str, Any], folder: str, cls: Any) -> dict[str, Any]:
    """The arguments in the words of the installed version, which writes nothing but into `folder`."""
    known = {field.name for field in fields(cls)}
    if "warmup_ratio" not in known:  # since transformers 5 a share is written as steps below 1
        arguments = {**arguments, "warmup_steps": arguments["warmup_steps"] or arguments["warmup_ratio"] or 0}
    plain = {"output_dir": folder, "use_cpu": True, "report_to": [], "disable_tqdm": True, "logging_strategy": "no"}
    return {key: value for key, value in arguments.items() if key in known and value is not None} | plain


def order_of(work: Workload, regime: Regime, seed: int, steps: int) -> Any:
    """The order of the data that a run of ours has, as a sampler."""
    return _Order(work, regime, seed, steps)


def by_the_trainer(made: Any) -> Course:
    """Train by transformers' Trainer."""
    made.train()
    return Course(made.losses, made.rates, {name: p.detach() for name, p in made.model.named_parameters()})


def whole_schedule(made: Any, work: Workload, regime: Regime) -> float | None:
    """Return the largest difference of the rate over the schedule, relative to its largest; None for a controller."""
    (phase,) = compile_regime(regime, epochs(regime, work.view()), None)
    lr, total = lr_of(regime), phase.length.steps
    if not isinstance(lr, int | float | Schedule) or total is None:
        return None
    value = lr.bind(phase.length.span()) if isinstance(lr, Schedule) else None
    scheduler = made.create_scheduler(total)
    peak, ratio = scheduler.base_lrs[0], scheduler.lr_lambdas[0]
    worst = largest = 0.0
    for point in range(min(total, _POINTS)):
        step = point * total // min(total, _POINTS)
        theirs = peak * ratio(step)
        ours = lr if value is None else value(_at(step, total))
        worst, largest = max(worst, abs(ours - theirs)), max(largest, abs(theirs))
    return worst / largest if largest else worst


def _at(step: int, total: int) -> Progress:
    return Progress(step=step, phase_step=step, fraction=step / total, run_fraction=step / total)
