"""The Trainer's optimizer as a rule of ours, and which parameters it does not decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Optimizer
from regimes.optimizers import SGD, AdamW, Group, Groups, Torch
from regimes.study.importing.given import Given, number

#: What the Trainer leaves without decay: all of nn.LayerNorm, and names with bias, layernorm, rmsnorm, or a part that is
#: norm or ends in _norm. It reads names in small letters, so that initials may be capitals here.
UNDECAYED = "|".join(
    [
        "@layer_norms",
        "*[Bb]ias*",
        "*[Ll]ayer[Nn]orm*",
        "*[Rr][Mm][Ss][Nn]orm*",
        *("[Nn]orm", "[Nn]orm.*", "*.[Nn]orm", "*.[Nn]orm.*", "*_[Nn]orm", "*_[Nn]orm.*"),
    ]
)


class Rule(NamedTuple):
    """What an ``optim`` becomes.

    Parameters
    ----------
    make : callable
        (given, lr, weight_decay) -> Optimizer.
    takes : tuple of str
        What it reads of ``optim_args``.
    reads : tuple of str
        Other keys that only it reads.
    said : str
        What is different, where something is.
    """

    make: Callable[[Given, Any, float], Optimizer]
    takes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    said: str = ""


_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


def _adamw(given: Given, lr: Any, weight_decay: float) -> Optimizer:
    betas = given.number("adam_beta1", 0.0, 1.0), given.number("adam_beta2", 0.0, 1.0)
    return AdamW(lr=lr, betas=betas, eps=given.number("adam_epsilon", 0.0), weight_decay=weight_decay)


def _sgd(given: Given, lr: Any, weight_decay: float) -> Optimizer:
    return SGD(lr=lr, weight_decay=weight_decay, **_numbers(given, "nesterov"))


def _torch(name: str, switch: str = "") -> Callable[[Given, Any, float], Optimizer]:
    def make(given: Given, lr: Any, weight_decay: float) -> Optimizer:
        return Torch(name, lr=lr, weight_decay=weight_decay, **_numbers(given, switch))

    return make


def _numbers(given: Given, switch: str) -> dict[str, Any]:
    """The options in ``optim_args``; `switch` is the one that is true or false."""
    found: dict[str, Any] = {}
    for name, value in given.options("optim_args").items():
        if name == "weight_decay":
            continue  # overridden by the key of that name, in both groups
        if name == switch:
            found[name] = str(value).lower() in ("true", "1", "yes")
        else:
            found[name] = float(number(value, f"optim_args.{name}"))
    return found


_KERNEL = "the formula is AdamW's; the kernel is another device's"
_FEWER_BITS = "states that the Trainer keeps in 8 bits are kept in full here"
RULES = {
    "adamw_torch": Rule(_adamw, reads=_ADAM),
    "adamw_torch_fused": Rule(_adamw, reads=_ADAM),
    "adamw_torch_xla": Rule(_adamw, reads=_ADAM, said=_KERNEL),
    "adamw_torch_npu_fused": Rule(_adamw, reads=_ADAM, said=_KERNEL),
    "adamw_apex_fused": Rule(_adamw, reads=_ADAM, said=_KERNEL),
    "paged_adamw_32bit": Rule(_adamw, reads=_ADAM, said="states are not paged here"),
    "adamw_bnb_8bit": Rule(_adamw, reads=_ADAM, said=_FEWER_BITS),
    "adamw_8bit": Rule(_adamw, reads=_ADAM, said=_FEWER_BITS),
    "paged_adamw_8bit": Rule(_adamw, reads=_ADAM, said=_FEWER_BITS),
    "sgd": Rule(_sgd, ("momentum", "dampening", "nesterov", "weight_decay")),
    "adagrad": Rule(_torch("Adagrad"), ("lr_decay", "eps", "weight_decay")),
    "rmsprop": Rule(_torch("RMSprop", "centered"), ("momentum", "alpha", "eps", "centered", "weight_decay")),
}


def rule_of(given: Given, lr: Any) -> tuple[Optimizer, Rule]:
    """Return the optimizer, with groups where some parameters are not decayed, and what `optim` was taken for.

    Raises
    ------
    DeclarationError
        For an optimizer without a counterpart, or options that it does not take.
    """
    name = given.get("optim")
    if name not in RULES:
        told = nearest(str(name), RULES)
        raise DeclarationError(f"got {show(name)}, which has no counterpart here; {told}", "optim")
    rule = RULES[name]
    for option in given.options("optim_args"):
        if option not in rule.takes:
            told = nearest(option, rule.takes) if rule.takes else f"the Trainer reads none for '{name}'"
            raise DeclarationError(f"is no option of '{name}'; {told}", f"optim_args.{option}")
    decay = given.number("weight_decay", 0.0)
    if decay == 0.0:
        return rule.make(given, lr, 0.0), rule
    groups = Group(UNDECAYED, rule.make(given, lr, 0.0)), Group("*", rule.make(given, lr, decay))
    return Groups(groups), rule
