"""What became of every key that says something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from regimes.core.duration import Duration
from regimes.study.importing.cadence import steps_per_epoch
from regimes.study.importing.clock import Clock
from regimes.study.importing.given import Given
from regimes.study.importing.keys import DEFAULTS, LEFT, asks_for_nothing
from regimes.study.importing.rates import UNWARMED
from regimes.study.importing.rules import Rule


class Key(NamedTuple):
    """One key of somebody's declaration that is not at its default.

    Parameters
    ----------
    name : str
    value : object
    path : str
        Where it stands in the regime, or in the options of the run; empty where it is not carried.
    said : str
        Why it is not carried, or what is different; empty where nothing is.
    """

    name: str
    value: Any
    path: str
    said: str = ""

    @property
    def shown(self) -> Any:
        """The value, but for tokens of services, which are nobody's to print."""
        return f"<{self.name.upper()}>" if self.name.endswith("_token") else self.value

    def facts(self) -> dict[str, Any]:
        """What `str` says, by name."""
        return {"key": self.name, "value": self.shown, "path": self.path, "said": self.said}

    def __str__(self) -> str:
        where = f" -> {self.path}" if self.path else ""
        return f"{self.name} = {json.dumps(self.shown, default=str)}{where}" + (f": {self.said}" if self.said else "")


_LR, _RULE, _MICRO = "optimizer.lr", "optimizer", "batch_size, micro_batch"
_PATHS = {
    "learning_rate": _LR,
    "lr_scheduler_type": _LR,
    "lr_scheduler_kwargs": _LR,
    "warmup_steps": _LR,
    "warmup_ratio": _LR,
    "optim": _RULE,
    "optim_args": _RULE,
    "adam_beta1": _RULE,
    "adam_beta2": _RULE,
    "adam_epsilon": _RULE,
    "weight_decay": _RULE,
    "max_grad_norm": "grad_transforms",
    "per_device_train_batch_size": _MICRO,
    "gradient_accumulation_steps": _MICRO,
    "num_train_epochs": "budget",
    "max_steps": "budget",
    "label_smoothing_factor": "loss",
    "bf16": "precision",
    "train_sampling_strategy": "sampler",
    "seed": "seed",
    "eval_strategy": "options.validate",
    "eval_steps": "options.validate",
    "save_strategy": "options.checkpoint",
    "save_steps": "options.checkpoint",
}
_NO_LENGTHS = "batches of like length are no order of a sampler here; Reshuffle stands in its place"
_ROUNDED = "the Trainer rounds it up to whole steps; not where the number of examples is said"
_ACCUMULATED = (
    "divided once by the units of the whole batch, as the Trainer does for models that take num_items_in_batch; for others "
    "it averages over micro-batches: the same where each holds equally many"
)
_CLASSES = "of outputs (n, classes, ...); NextToken has none"
_PLATEAU = "it reads val:loss, the mean over units; the Trainer's eval_loss is the mean of its batches'"


def keys_of(given: Given, clock: Clock, rule: Rule, devices: int, examples: int | None) -> Iterator[Key]:
    """Yield every key that is not at its default, with what became of it."""
    for name, value in given.values.items():
        if name in given.ignored:
            yield Key(name, value, "", "passed over, as asked: a key of a subclass")
        elif value is not None and not asks_for_nothing(name, value):
            left = _left(given, name, clock, rule)
            path = "" if left else _PATHS[name]
            yield Key(name, value, path, left or _different(given, name, clock, rule, devices, examples))
    usual = DEFAULTS["num_train_epochs"]
    if given.number("max_steps") < 0 and given.get("num_train_epochs") == usual:
        said = _epochs(given, devices, examples, clock)
        if said:  # the default, too, means something else
            yield Key("num_train_epochs", usual, "budget", said)


def _left(given: Given, name: str, clock: Clock, rule: Rule) -> str:
    """Why a key is not carried; empty where it is."""
    schedule, strategy = given.get("lr_scheduler_type"), given.get("save_strategy")
    if name in LEFT:
        return LEFT[name]
    if name in ("warmup_steps", "warmup_ratio"):
        if schedule in UNWARMED:
            return f"'{schedule}' has no warm-up in the Trainer either"
        return "warmup_steps decides" if name == "warmup_ratio" and given.number("warmup_steps") else ""
    if name.startswith("adam_"):
        return "" if name in rule.reads else f"is not read by '{given.get('optim')}'"
    if name == "optim_args" and list(given.options(name)) == ["weight_decay"]:
        return "the key weight_decay decides, as in the Trainer"
    if name.startswith("eval_steps"):
        return "" if given.get("eval_strategy") == "steps" else "is read where eval_strategy is 'steps' alone"
    if name.startswith("save_"):
        return _save(name, strategy)
    return _OTHERS.get(name, lambda given: "")(given)


def _save(name: str, strategy: str) -> str:
    if strategy in ("no", "best"):
        return "has no place here: a run with a folder has checkpoints, at a cadence"
    return "is read where save_strategy is 'steps' alone" if name == "save_steps" and strategy == "epoch" else ""


def _by_steps(given: Given) -> bool:
    return given.get("eval_strategy") == "steps" and not given.get("eval_steps")


_OTHERS = {
    "fp16": lambda given: "precision here is float32 or bfloat16; float32 stands in its place",
    "data_seed": lambda given: "one seed addresses everything that is random here",
    "num_train_epochs": lambda given: "max_steps decides" if given.number("max_steps") > 0 else "",
    "dataloader_drop_last": lambda given: "nothing is dropped here: a batch goes on into the next epoch",
    "train_sampling_strategy": lambda given: (
        "" if given.get("train_sampling_strategy") == "sequential" else _NO_LENGTHS
    ),
    "logging_steps": lambda given: "" if _by_steps(given) else LEFT["logging_strategy"],
    "metric_for_best_model": lambda given: (
        "" if given.get("lr_scheduler_type") == "reduce_lr_on_plateau" else LEFT["load_best_model_at_end"]
    ),
}
_PATHS |= {"logging_steps": "options.validate", "metric_for_best_model": _LR}


def _different(given: Given, name: str, clock: Clock, rule: Rule, devices: int, examples: int | None) -> str:
    """What is different about a key that is carried; empty where nothing is."""
    if name in ("warmup_steps", "warmup_ratio"):
        return _ROUNDED if clock.warmup.unit == "%" else ""
    if name in ("num_train_epochs", "max_steps"):
        return _epochs(given, devices, examples, clock)
    return {
        "optim": rule.said,
        "gradient_accumulation_steps": _ACCUMULATED,
        "label_smoothing_factor": _CLASSES,
        "lr_scheduler_type": _PLATEAU if given.get("lr_scheduler_type") == "reduce_lr_on_plateau" else "",
    }.get(name, "")


def _epochs(given: Given, devices: int, examples: int | None, clock: Clock) -> str:
    """Whether epochs may end with a smaller batch in the Trainer."""
    batch = given.integer("per_device_train_batch_size", 1) * given.integer("gradient_accumulation_steps", 1) * devices
    if examples is None:
        if given.number("max_steps") > 0:
            return ""
        return f"the same where the number of examples is a multiple of {batch}; else the Trainer ends epochs with less"
    if examples % batch == 0 or (clock.steps or 0) <= examples // batch:
        return ""
    per_epoch = Duration(steps_per_epoch(given, devices, examples), "steps")
    return f"the Trainer ends an epoch after {per_epoch}, the last of them smaller; here a batch goes on into the next"
