"""How long, how often: the Trainer's epochs, steps and shares of steps as Durations."""

from __future__ import annotations

import math

from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, show
from regimes.study.importing.clock import Clock
from regimes.study.importing.given import Given

STRATEGIES = ("no", "steps", "epoch", "best")


def steps_per_epoch(given: Given, devices: int, examples: int) -> int:
    """Optimizer steps in an epoch as the Trainer counts them: the last batch and the last accumulation may be smaller."""
    batch = given.integer("per_device_train_batch_size", 1) * devices
    whole, rest = divmod(examples, batch)
    batches = whole if given.flag("dataloader_drop_last") or not rest else whole + 1
    return max(math.ceil(batches / given.integer("gradient_accumulation_steps", 1)), 1)


def clock_of(given: Given, devices: int, examples: int | None) -> Clock:
    """How many steps, and how long the warm-up.

    Raises
    ------
    DeclarationError
        If there is nothing to train.
    """
    steps: int | None = given.integer("max_steps", -1)
    if steps == 0:
        raise DeclarationError("got 0; allowed: an integer >= 1, or -1 to train for num_train_epochs", "max_steps")
    if steps == -1:
        epochs = given.number("num_train_epochs", 0.0)
        if epochs == 0.0:
            raise DeclarationError(f"got {show(epochs)}; allowed: a number > 0", "num_train_epochs")
        steps = None if examples is None else math.ceil(epochs * steps_per_epoch(given, devices, examples))
    return Clock(steps, _warmup(given, steps))


def _warmup(given: Given, steps: int | None) -> Duration:
    """Steps, where they can be told; less than 1 is a share, which the Trainer rounds up to whole steps."""
    amount = given.number("warmup_steps", 0.0)
    if not amount:
        amount = given.number("warmup_ratio", 0.0, 1.0)
        if amount == 1.0:
            return Duration(100.0, "%") if steps is None else Duration(steps, "steps")
    if amount >= 1.0 or not amount:
        return Duration(int(amount), "steps")
    return Duration(100.0 * amount, "%") if steps is None else Duration(math.ceil(steps * amount), "steps")


def budget_of(given: Given, clock: Clock) -> Duration:
    """What training takes: steps where they are known, else epochs."""
    if clock.steps is not None:
        return Duration(clock.steps, "steps")
    return Duration(given.number("num_train_epochs"), "epochs")


def every(given: Given, kind: str, clock: Clock, fallback: str = "") -> Duration | None:
    """How often something happens (`kind` is "eval" or "save"); None where it does not.

    Raises
    ------
    DeclarationError
        For an unknown strategy, or an amount that is none.
    """
    strategy = given.choice(f"{kind}_strategy", STRATEGIES if kind == "save" else STRATEGIES[:3])
    if strategy in ("no", "best"):
        return None
    if strategy == "epoch":
        return Duration(1, "epochs")
    key = f"{kind}_steps" if given.get(f"{kind}_steps") or not fallback else fallback
    amount = given.number(key, 0.0)
    if not amount or (amount > 1.0 and amount % 1):
        raise DeclarationError(f"got {show(amount)}; allowed: an integer >= 1, or a share of all steps below 1", key)
    if amount >= 1.0:
        return Duration(amount, "steps")
    return Duration(100.0 * amount, "%") if clock.steps is None else Duration(math.ceil(clock.steps * amount), "steps")
