"""`import_training_args`: what transformers' Trainer was told, as a regime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show
from regimes.core.regime import Regime
from regimes.grad_transforms import ClipNorm
from regimes.losses import CrossEntropy
from regimes.samplers import Sequential
from regimes.study.importing import text
from regimes.study.importing.cadence import budget_of, clock_of, every
from regimes.study.importing.clock import Clock
from regimes.study.importing.given import Given, as_mapping, place
from regimes.study.importing.rates import rate_of
from regimes.study.importing.rules import rule_of
from regimes.study.importing.told import Key, keys_of


@dataclass(frozen=True)
class Imported:
    """A regime that was another trainer's, with what became of every key.

    Parameters
    ----------
    regime : Regime
    seed : int
        Of the run. The same number draws other numbers here.
    options : dict of str to str
        Keyword arguments of `regimes.run`: the cadences of validation and checkpoints.
    keys : tuple of Key
        Every key that is not at its default: its value, where it went, what is different or why it is not carried.
    arguments : dict
        What was read.
    settings : dict
        How: `devices`, `examples`.
    source : str
        Where from.
    """

    regime: Regime
    seed: int
    options: dict[str, str]
    keys: tuple[Key, ...]
    arguments: dict[str, Any] = field(repr=False)
    settings: dict[str, Any] = field(repr=False)
    source: str = field(repr=False)

    @property
    def left(self) -> tuple[Key, ...]:
        """Keys that are not carried, with the reason."""
        return tuple(key for key in self.keys if not key.path)

    @property
    def different(self) -> tuple[Key, ...]:
        """Keys that are carried, and mean something else in some cases."""
        return tuple(key for key in self.keys if key.path and key.said)

    def __str__(self) -> str:
        return "\n".join([repr(self.regime), *text.lists(self)])

    def yaml(self, workload: str | None = None) -> str:
        """Return the run file: what `regimes run` reads, with the lists as comments.

        Parameters
        ----------
        workload : str, optional
            What is trained: a built-in name, or ``package.module:function``. Left out, a line is left for it.
        """
        return text.yaml(self, workload)

    def check(self, steps: int = 50) -> Any:
        """Train a tiny random model by transformers' Trainer and by the engine, and compare.

        Parameters
        ----------
        steps : int
            How many at most. Default 50.

        Returns
        -------
        Checked

        Raises
        ------
        DeclarationError
            If transformers or accelerate is not installed.
        """
        from regimes.study.importing.proof import check

        return check(self, steps)


def import_training_args(
    args: Any, *, devices: int = 1, examples: int | None = None, ignore: Iterable[str] = ()
) -> Imported:
    """Return the regime that transformers' TrainingArguments declare; transformers need not be installed.

    Parameters
    ----------
    args : path, dict or TrainingArguments
        JSON as ``TrainingArguments.to_json_string()`` writes it, the ``training_args.bin`` beside a checkpoint (nothing
        in it is executed), a folder with one of them, the keys themselves, or the object. Keys that are left out are
        at the defaults of transformers 5.
    devices : int
        How many trained together: the batch is per_device_train_batch_size times gradient_accumulation_steps times
        this, which the arguments do not say. Default 1.
    examples : int, optional
        Size of the training data. With it num_train_epochs becomes the steps that the Trainer counts, and shares of
        the whole become steps; without it a budget in epochs stays one.
    ignore : iterable of str
        Keys that a subclass adds (SFTConfig, ...) and that are to be passed over.

    Returns
    -------
    Imported

    Raises
    ------
    DeclarationError
        For unknown keys, values out of range or at odds with one another, schedules and optimizers without a counterpart.

    Notes
    -----
    The rate of step t, the update, the clipping, the batch and its division are the Trainer's. The random numbers are
    not: order, dropout and first weights are drawn from the seed otherwise.

    References
    ----------
    transformers 5.23, ``training_args.py``, ``trainer.py``, ``trainer_optimizer.py``, ``optimization.py``.

    Examples
    --------
    >>> found = import_training_args({"lr_scheduler_type": "cosine", "max_steps": 1000, "warmup_steps": 0.03, "fp16": True})
    >>> found.regime  # doctest: +NORMALIZE_WHITESPACE
    Regime(optimizer=AdamW(lr=Cosine(5e-05, warmup='30 steps'), weight_decay=0.0), batch_size=8,
           grad_transforms=[ClipNorm()], budget='1000 steps')
    >>> for key in found.left: print(key)
    fp16 = true: precision here is float32 or bfloat16; float32 stands in its place
    >>> import_training_args({"max_step": 1000})
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: max_step: is no key of TrainingArguments; did you mean 'max_steps'?; to pass over \
what a subclass adds: --ignore max_step
    """
    for name, value in (("devices", devices), ("examples", examples)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise DeclarationError(f"got {show(value)}; allowed: an integer >= 1", name)
    given = Given(as_mapping(args), ignore)
    clock = clock_of(given, devices, examples)
    lr = rate_of(given, clock)
    optimizer, rule = rule_of(given, lr)
    regime = Regime(optimizer=optimizer, budget=budget_of(given, clock), **_fields(given, clock, devices))
    return Imported(
        regime,
        given.integer("seed", 0),
        _options(given, clock),
        tuple(keys_of(given, clock, rule, devices, examples)),
        given.values,
        {"devices": devices, "examples": examples},
        str(place(args)) if isinstance(args, str | Path) else f"a {type(args).__name__}",
    )


def _fields(given: Given, clock: Clock, devices: int) -> dict[str, Any]:
    """Fields of the phase beside optimizer and budget, where they are not ours by default."""
    each, times = given.integer("per_device_train_batch_size", 1), given.integer("gradient_accumulation_steps", 1)
    if given.flag("fp16") and given.flag("bf16"):
        raise DeclarationError("got true beside bf16 = true; allowed: one of them", "fp16")
    sampling = given.choice("train_sampling_strategy", ("random", "sequential", "group_by_length", "batch_rebalance"))
    off = given.values.get("max_grad_norm", 1.0) is None  # as transformers 4 wrote it
    clip, smoothing = (
        0.0 if off else given.number("max_grad_norm", 0.0),
        given.number("label_smoothing_factor", 0.0, 1.0),
    )
    found: dict[str, Any] = {"batch_size": each * times * devices}
    if times * devices > 1:
        found["micro_batch"] = each
    if sampling == "sequential":
        found["sampler"] = Sequential()
    if smoothing:
        found["loss"] = CrossEntropy(label_smoothing=smoothing)
    if clip:
        found["grad_transforms"] = (ClipNorm(clip),)
    if given.flag("bf16"):
        found["precision"] = "bfloat16"
    if given.get("lr_scheduler_type") == "reduce_lr_on_plateau":
        found["evaluate"] = every(given, "eval", clock, "logging_steps")
        if found["evaluate"] is None:
            raise DeclarationError(
                "got 'no' beside 'reduce_lr_on_plateau', which reads validation; allowed: 'steps' or 'epoch'",
                "eval_strategy",
            )
    return found


def _options(given: Given, clock: Clock) -> dict[str, str]:
    cadences = {"validate": every(given, "eval", clock, "logging_steps"), "checkpoint": every(given, "save", clock)}
    return {name: str(cadence) for name, cadence in cadences.items() if cadence is not None}
