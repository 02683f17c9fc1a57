"""One rule on one group of parameters in a script: its class, and the options that are given once or moved each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regimes.core import fields
from regimes.core.errors import DeclarationError
from regimes.ejection.text import Symbol, literal
from regimes.optimizers import SGD, AdamW
from regimes.optimizers.foreign.rule import Foreign
from regimes.optimizers.foreign.torch_class import Torch

#: Rules that torch has, to the bit: the options that its class takes.
_TORCHS: dict[type, tuple[str, tuple[str, ...]]] = {
    AdamW: ("torch.optim.AdamW", ("lr", "betas", "eps", "weight_decay")),
    SGD: ("torch.optim.SGD", ("lr", "momentum", "dampening", "weight_decay", "nesterov")),
}
_TORCH_DEFAULTS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum": 0.0, "dampening": 0.0, "nesterov": False}


class Leaf:
    """One rule on one group of parameters.

    Parameters
    ----------
    rule : Optimizer
        With symbols in place of what varies.
    condition : str
        Which parameters, of those that no earlier leaf took; empty for all that are left.
    """

    def __init__(self, own: Any, rule: Any, condition: str) -> None:
        self.rule, self.condition = rule, condition
        self.class_name, options, defaults = self._class(own)
        self.fixed = {k: v for k, v in options.items() if not varies(v) and v != defaults.get(k, options)}
        self.moving = {k: v for k, v in options.items() if varies(v)}
        self.options, self.fused = options, type(rule) in _TORCHS

    def _class(self, own: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """Name of the class in the script, its options and their defaults."""
        rule = self.rule
        if isinstance(rule, Foreign):
            cls = type(rule).find(rule.name)
            _refuse_drawing(cls, dict(rule.options))
            if not isinstance(rule, Torch):
                own.script.need(f"from {cls.__module__.split('.')[0]} import {cls.__name__}")
            return (f"torch.optim.{rule.name}" if isinstance(rule, Torch) else cls.__name__), dict(rule.options), {}
        names_ = _TORCHS[type(rule)][1] if type(rule) in _TORCHS else tuple(fields.table(type(rule)))
        options = {name: getattr(rule, name) for name in names_}
        if type(rule) in _TORCHS:
            weight_decay = {"weight_decay": 0.01 if type(rule) is AdamW else 0.0}
            return _TORCHS[type(rule)][0], options, _TORCH_DEFAULTS | weight_decay
        module = type(rule).__module__
        if module.split(".")[0] != "regimes":  # rg.optim knows a rule of somebody's own once its module is imported
            own.script.need(f"import {module}  # noqa: F401")
        return f"rg.optim.{type(rule).__name__}", options, {n: i.default for n, i in fields.table(type(rule)).items()}

    def arguments(self) -> list[str]:
        """Keyword arguments of the constructor."""
        return [f"{name}={literal(value)}" for name, value in self.fixed.items()]


def varies(value: Any) -> bool:
    """Whether an option holds a symbol."""
    return isinstance(value, Symbol) or (isinstance(value, tuple) and any(map(varies, value)))


def _refuse_drawing(cls: Any, options: dict[str, Any]) -> None:
    """Refuse a class that draws random numbers: the engine sets the generators to an address before every step."""
    with torch.random.fork_rng(devices=[]):
        p = nn.Parameter(torch.ones(2, 2))
        instance = cls([p], **{k: v for k, v in options.items() if not varies(v)})
        before = torch.default_generator.get_state()
        for _ in range(2):
            p.grad = torch.ones_like(p)
            instance.step()
        if not torch.equal(before, torch.default_generator.get_state()):
            raise DeclarationError(
                f"got {cls.__name__}, which draws random numbers; allowed in a script: rules that draw none",
                "optimizer",
            )
