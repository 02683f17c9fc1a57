"""Refusals are sentences: which key, what it got, what is allowed, the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What people write out of habit, and our word for it.
FOREIGN = {
    "learning_rate": "lr",
    "max_lr": "peak",
    "max_steps": "budget",
    "num_steps": "budget",
    "total_steps": "budget",
    "epochs": "budget",
    "num_epochs": "budget",
    "max_epochs": "budget",
    "num_train_epochs": "budget",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "micro_batch",
    "accumulate": "micro_batch",
    "warmup_steps": "warmup",
    "warmup_ratio": "warmup",
    "num_warmup_steps": "warmup",
    "wd": "weight_decay",
    "optim": "optimizer",
    "optimiser": "optimizer",
    "scheduler": "optimizer.lr",
    "lr_scheduler": "optimizer.lr",
    "clip": "grad_transforms",
    "grad_clip": "grad_transforms",
    "clip_grad": "grad_transforms",
    "clip_grad_norm": "grad_transforms",
    "grad_clip_norm": "grad_transforms",
    "gradient_clipping": "grad_transforms",
    "max_grad_norm": "grad_transforms",
    "gradient_clip_val": "grad_transforms",
    "ema": "average",
    "datasets": "mixture",
    "stages": "phases",
    "dtype": "precision",
    "steps": "budget",
    "max_grad": "max_norm",
}

#: What to write where our word alone does not show it.
_WRITTEN = {
    "average": "average=EMA(0.999)",
    "budget": "budget='10 epochs'",
    "grad_transforms": "grad_transforms=ClipNorm(1.0)",
    "micro_batch": "micro_batch=8, the examples per forward",
    "optimizer.lr": "optimizer=AdamW(lr=Cosine(1e-3))",
    "warmup": "warmup='5%', in the schedule",
}


class RegimesError(Exception):
    """Base of every error that regimes raises on purpose."""


class DeclarationError(RegimesError, ValueError):
    """A declaration is refused before anything is spent.

    Parameters
    ----------
    message : str
        The sentence, without the key.
    key : str
        Path of the field, relative to the component that refused it; outer components prepend theirs.
    """

    def __init__(self, message: str, key: str = "") -> None:
        self.message, self.key = message, key
        super().__init__(f"{key}: {message}" if key else message)

    def within(self, outer: str) -> DeclarationError:
        """Return the same refusal, seen from a component that holds the refusing one at `outer`."""
        return DeclarationError(self.message, f"{outer}.{self.key}" if self.key else outer)


class ResumeError(RegimesError):
    """A run folder or checkpoint cannot be continued as asked."""


class RunFailed(RegimesError):
    """Training stopped because it could not go on sensibly (too many non-finite steps, say)."""


class Interrupted(RegimesError):
    """Training stopped cleanly on a signal or a time limit, with a checkpoint.

    Parameters
    ----------
    message : str
        Says which command resumes.
    code : int
        Exit status for scripts: 130 (Ctrl-C), 143 (SIGTERM) or 0 (time limit).
    """

    def __init__(self, message: str, code: int) -> None:
        self.code = code
        super().__init__(message)


class UserCodeError(RegimesError):
    """An exception in the user's own model, loss, metric or data; the original is its ``__cause__``."""


class StepSkipped(ArithmeticError):
    """A step is not to be made; its record says that it was skipped, and why. What it cost counts.

    A gradient transform raises it, or a rule that has written nothing yet.

    Parameters
    ----------
    what : str
        Why, as the record has it.
    examples : tuple of int
        Those that are to blame, where they are known.
    layer : str, optional
        The module that is.
    """

    def __init__(self, what: str, examples: tuple[int, ...] = (), layer: str | None = None) -> None:
        self.what, self.examples, self.layer = what, examples, layer
        super().__init__(what)


class NonFinite(StepSkipped):
    """An evaluation produced a loss or gradient that is not finite; the step is skipped."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return a half sentence naming the closest valid name, or the valid names when none is close.

    Examples
    --------
    >>> nearest("learning_rate", ["lr", "betas"])
    "here it is called 'lr'"
    >>> nearest("max_grad_norm", ["budget", "grad_transforms"])
    "here it is called 'grad_transforms', for example grad_transforms=ClipNorm(1.0)"
    >>> nearest("beta", ["lr", "betas"])
    "did you mean 'betas'?"
    >>> nearest("zzz", ["lr", "betas"])
    'allowed: betas, lr'
    """
    options = sorted(set(options))
    ours = FOREIGN.get(name.lower())
    if ours is not None and (ours in options or ours.split(".")[0] in options):
        return f"here it is called '{ours}'" + (f", for example {_WRITTEN[ours]}" if ours in _WRITTEN else "")
    by_case = {option.lower(): option for option in options}
    if name.lower() in by_case:
        return f"did you mean '{by_case[name.lower()]}'?"
    close = difflib.get_close_matches(name.lower(), list(by_case), n=1, cutoff=0.6)
    if close:
        return f"did you mean '{by_case[close[0]]}'?"
    shown = ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")
    return f"allowed: {shown}" if shown else "no name is allowed here"


def a_or_an(noun: str) -> str:
    """Return a noun with its article.

    Examples
    --------
    >>> a_or_an("Optimizer"), a_or_an("loss")
    ('an Optimizer', 'a loss')
    """
    return f"a{'n' if noun[0] in 'aeiouAEIOU' else ''} {noun}"


def show(value: object, limit: int = 80) -> str:
    """Return a short printed form of what was got.

    Examples
    --------
    >>> show("5 parsecs")
    "'5 parsecs'"
    """
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def nearest_pattern(pattern: str, names: Iterable[str]) -> str:
    """Return a half sentence naming the closest dotted name, or the closest ``prefix.*`` of some.

    Examples
    --------
    >>> nearest_pattern("block.*", ["blocks.0.weight", "head.weight"])
    "did you mean 'blocks.*'?"
    """
    names = list(names)
    parts = [name.split(".") for name in names]
    return nearest(pattern, {*names, *(".".join([*p[:depth], "*"]) for p in parts for depth in range(1, len(p)))})
