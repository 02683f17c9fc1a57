"""The first steps of a tiny random model, by transformers' Trainer and by the engine, side by side in float64."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any, NamedTuple

from torch import Tensor

from regimes.core.errors import DeclarationError
from regimes.core.randomness import kept
from regimes.core.regime import Regime
from regimes.study.importing import courses, tiny
from regimes.study.importing.keys import CARRIED

#: Up to here a difference is rounding: of a loss or rate relative to itself, of a weight relative to the longest way of any.
#: Found are below 1e-10; one step of a schedule, decay on a norm, or a mean over micro-batches makes more than 1e-6.
BAR = 1e-8
#: With label smoothing, a part of which the Trainer adds up in float32.
BAR_SMOOTHED = 1e-6
#: No more examples in a micro-batch, and no more micro-batches in a step.
MOST = 4
LEAST_EPSILON = 1e-8


class Checked(NamedTuple):
    """What the two said.

    Parameters
    ----------
    steps : int
        How many were compared.
    losses, rates, weights : float
        Largest difference: of a loss and of a learning rate, relative to the Trainer's largest; of a weight after the last
        step, relative to the longest way that any weight has gone.
    schedule : float or None
        Largest difference of the rate over the whole schedule, relative to its largest; None where a controller decides.
    bar : float
        What counts as rounding.
    compared_with : tuple of str
        What was taken for something else in the comparison.
    """

    steps: int
    losses: float
    rates: float
    weights: float
    schedule: float | None
    bar: float
    compared_with: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether no difference is more than rounding."""
        return all(value <= self.bar for value in (self.losses, self.rates, self.weights, self.schedule or 0.0))

    def __str__(self) -> str:
        whole = "" if self.schedule is None else f" ({self.schedule:.1e} over the whole schedule)"
        with_ = f", with {', '.join(self.compared_with)}" if self.compared_with else ""
        said = "the same up to rounding" if self.same else f"NOT the same: rounding is up to {self.bar:.0e}"
        return (
            f"first {self.steps} steps beside transformers' Trainer, a tiny random GPT-2 in float64{with_}; largest "
            f"difference: losses {self.losses:.1e}, rates {self.rates:.1e}{whole}, weights {self.weights:.1e}: {said}"
        )


def installed() -> bool:
    """Whether transformers' Trainer can be used."""
    return find_spec("transformers") is not None and find_spec("accelerate") is not None


def check(found: Any, steps: int) -> Checked:
    """Train by both, the order of the data being ours, and compare.

    Parameters
    ----------
    found : Imported
    steps : int

    Raises
    ------
    DeclarationError
        If transformers is not installed.
    """
    if not installed():
        raise DeclarationError(
            "transformers (with accelerate) is not installed; write pip install 'regimes[transformers]', or --no-check",
            "check",
        )
    from regimes.study.importing.api import import_training_args

    arguments, compared_with = _small(found)
    ours = import_training_args(arguments)
    with kept():
        start, theirs, mine, schedule = _side_by_side(arguments, ours.regime, ours.seed, steps)
    return Checked(
        len(theirs.losses),
        _apart(mine.losses, theirs.losses),
        _apart(mine.rates, theirs.rates),
        _weights_apart(mine.weights, theirs.weights, start),
        schedule,
        BAR_SMOOTHED if arguments["label_smoothing_factor"] else BAR,
        compared_with,
    )


def _side_by_side(
    arguments: dict[str, Any], regime: Regime, seed: int, steps: int
) -> tuple[dict[str, Tensor], courses.Course, courses.Course, float | None]:
    """First weights, the Trainer's course and ours from them, and how far apart the rates are over the whole schedule."""
    network = tiny.network(seed)
    train, val = tiny.data(int(regime.batch_size))
    work = tiny.workload(network, train, val)
    order = courses.order_of(work, regime, seed, steps)
    with courses.trainer(copy.deepcopy(network), arguments, train, val, order, steps) as made:
        theirs = courses.by_the_trainer(made)
        made.lr_scheduler = None  # it has been stepped; the next one begins anew
        schedule = courses.whole_schedule(made, work, regime)
    mine = courses.by_the_engine(work, regime, seed, len(theirs.losses))
    return {name: p.detach() for name, p in network.named_parameters()}, theirs, mine, schedule


def _small(found: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keys that are carried, with batches that one CPU trains in no time; and what is another than was declared."""
    given = {key: found.arguments.get(key, usual) for key, usual in {**CARRIED, "warmup_ratio": None}.items()}
    taken: dict[str, Any] = {
        "per_device_train_batch_size": min(given["per_device_train_batch_size"], MOST),
        "gradient_accumulation_steps": min(given["gradient_accumulation_steps"] * found.settings["devices"], MOST),
        # Biases of keys have no gradient but rounding, which a smaller epsilon would blow up to steps of full length.
        "adam_epsilon": max(given["adam_epsilon"], LEAST_EPSILON),
    }
    small = given | taken | {"bf16": False, "fp16": False, "dataloader_drop_last": False, "save_strategy": "no"}
    if "adamw" in given["optim"]:
        small["optim"] = "adamw_torch"
    if given["lr_scheduler_type"] != "reduce_lr_on_plateau":
        small |= {"eval_strategy": "no", "metric_for_best_model": None}
    elif given["metric_for_best_model"] not in (None, "loss", "eval_loss"):
        taken["metric_for_best_model"] = small["metric_for_best_model"] = "loss"
    if found.regime.budget.unit == "steps":
        small["max_steps"] = int(found.regime.budget.value)  # what examples= was for
    return small, tuple(f"{key} = {value}" for key, value in taken.items() if value != given[key])


def _apart(ours: list[float], theirs: list[float]) -> float:
    """Largest difference, relative to the largest of theirs."""
    largest = max(map(abs, theirs), default=0.0)
    worst = max((abs(a - b) for a, b in zip(ours, theirs, strict=True)), default=0.0)
    return worst / largest if largest else worst


def _weights_apart(ours: dict[str, Tensor], theirs: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Largest difference of a weight, relative to the longest way from the start of any."""
    way = max((theirs[name] - p).abs().max().item() for name, p in start.items())
    worst = max((ours[name] - theirs[name]).abs().max().item() for name in start)
    return worst / way if way else worst
