"""Every tensorwise rule as a torch.optim.Optimizer, for a person's own loop.

``optim.Lion(model.parameters(), lr=1e-4)`` is the rule `Lion` under torch's protocol: parameter groups with values
of their own, state_dict, closures, torch's schedulers. The classes are generated from the rules, by name, on first
use: the update is written once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from regimes.core import fields
from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.kinds import Controller, Optimizer, Schedule
from regimes.core.registry import REGISTRY
from regimes.optimizers.second_order.diagonals import (
    DiagonalCurvature,
    gauss_newton_bartlett_diagonal,
    hutchinson_diagonal,
)
from regimes.optimizers.second_order.empirical_fisher import EmpiricalFisherInverse
from regimes.optimizers.tensorwise.rule import Tensorwise, refuse_complex, wide

__all__ = ["EmpiricalFisherInverse", "RuleOptimizer", "gauss_newton_bartlett_diagonal", "hutchinson_diagonal"]


class RuleOptimizer(torch.optim.Optimizer):
    """A tensorwise rule under torch's protocol; subclasses are generated and only name the rule.

    Parameters
    ----------
    params : iterable
        Parameters, (name, parameter) pairs, or dicts of parameter groups, as torch takes them.
    *values, **named
        The rule's own arguments, numbers only.

    Raises
    ------
    DeclarationError
        For unknown arguments, values out of range, schedules, or parameters that the rule cannot update.
    RuntimeError
        If a gradient is sparse.

    Notes
    -----
    Parameters are real: complex ones are refused, as most rules square gradients (take `torch.view_as_real`).

    Of parameters in half precision (float16, bfloat16) states are kept, and updates are made, in float32, so that neither
    g^2 underflows (float16 ends at 6e-8) nor a mean of beta 0.999 stands still: twice the memory of torch's states, and other
    bits. The weights themselves are rounded once a step: what moves one by less than half the spacing there (at most 2^-11 of it
    in float16, 2^-8 in bfloat16) is lost. Where that matters, keep float32 weights and compute in half precision
    (`torch.autocast`, in a run ``precision="bfloat16"``). Gradients that underflowed in a float16 backward are gone already:
    scale the loss.

    Examples
    --------
    >>> from regimes import optim
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = optim.Lion([w], lr=0.1)
    >>> w.grad = torch.tensor([5.0, -0.01])
    >>> optimizer.step()
    >>> [round(v, 6) for v in w.tolist()]
    [0.9, 1.1]
    """

    rule: ClassVar[type[Tensorwise]]

    def __init__(self, params: Any, *values: Any, **named: Any) -> None:
        rule = self.rule(*values, **named)
        super().__init__(params, {name: getattr(rule, name) for name in fields.table(self.rule)})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, after checking its values and parameters against the rule."""
        rule = self.rule(**{name: param_group.get(name, self.defaults[name]) for name in fields.table(self.rule)})
        for name in fields.table(self.rule):
            for value in _flat(getattr(rule, name)):
                if isinstance(value, Schedule | Controller):
                    raise DeclarationError(
                        f"got {show(value)}; allowed here: a number, moved by rg.lr_scheduler or one of torch's", name
                    )
        super().add_param_group(param_group)
        try:
            self._check(rule, self.param_groups[-1])
        except DeclarationError:
            del self.param_groups[-1]
            raise

    def _check(self, rule: Tensorwise, group: dict[str, Any]) -> None:
        names = group.get("param_names") or [f"parameter {place}" for place in range(len(group["params"]))]
        for name, p in zip(names, group["params"]):
            try:
                refuse_complex(name, p)
                rule.check(name, p)
            except DeclarationError as why:
                raise _in_own_loop(why, type(self).__name__) from None

    def _live(self, group: dict[str, Any]) -> Tensorwise:
        """The rule with a group's present values, which were checked when they came."""
        values = {name: group[name] for name in fields.table(self.rule)}
        rule = object.__new__(self.rule)
        rule.__dict__.update({k: v.item() if isinstance(v, Tensor) else v for k, v in values.items()})
        return rule

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model anew and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rule, tensors = self._live(group), [p for p in group["params"] if p.grad is not None]
            slots = [self._slot(rule, p) for p in tensors]
            self._refuse_uncurved(slots)
            if tensors:
                rule.advance(tensors, [p.grad for p in tensors], slots)
        return loss

    @torch.no_grad()
    def update_hessian(self, estimates: Iterable[Tensor]) -> None:
        """Take in an estimate of the Hessian's diagonal, for rules that read one (AdaHessian, Sophia).

        Parameters
        ----------
        estimates : iterable of Tensor
            One for each parameter, in the order of the groups: from `hutchinson_diagonal` or
            `gauss_newton_bartlett_diagonal`, before the first step and as often as the rule is to read the curvature.

        Raises
        ------
        TypeError
            If the rule reads no curvature.
        ValueError
            If the number of estimates is not that of the parameters.
        """
        if not issubclass(self.rule, DiagonalCurvature):
            raise TypeError(f"{type(self).__name__} reads no curvature; step() alone updates")
        places = [(group, p) for group in self.param_groups for p in group["params"]]
        for (group, p), estimate in zip(places, estimates, strict=True):
            rule: Any = self._live(group)
            if not self.state[p]:
                self.state[p].update(rule.fresh(p))
            rule.refresh(p, wide(estimate), self.state[p])
            self.state[p]["curved"] = True

    def _refuse_uncurved(self, slots: Iterable[dict[str, Any]]) -> None:
        if issubclass(self.rule, DiagonalCurvature) and not all(slot.get("curved") for slot in slots):
            raise RuntimeError(
                f"{type(self).__name__} divides by an estimate of the curvature; give it one before step(), and as often as "
                "it is to be new: optimizer.update_hessian(rg.optim.hutchinson_diagonal(lambda: criterion(model(x), y), "
                "model.parameters())), or of rg.optim.gauss_newton_bartlett_diagonal(model, (x, y), criterion, "
                "model.parameters())"
            )

    def _slot(self, rule: Tensorwise, p: Tensor) -> dict[str, Any]:
        assert p.grad is not None
        if p.grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients; build the embedding with sparse=False, or give "
                "it to torch.optim.SparseAdam"
            )
        if not self.state[p]:
            self.state[p].update(rule.fresh(p))
        return self.state[p]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; states come back in the types that the rule keeps them in.

        Parameters
        ----------
        state_dict : dict
        """
        saved: dict[str, Any] = {}
        # torch casts states to the parameters' types. Hooks of the caller act before the first of these, or after the second.
        hooks = (
            self.register_load_state_dict_pre_hook(lambda _, given: saved.update(given)),
            self.register_load_state_dict_post_hook(lambda _: self._restore(saved), prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _restore(self, saved: dict[str, Any]) -> None:
        for group, given in zip(self.param_groups, saved["param_groups"]):
            rule = self._live(group)
            for p, number in zip(group["params"], given["params"]):
                if number in saved["state"]:
                    self.state[p] = _typed(saved["state"][number], rule.fresh(p), p)

    def __getattr__(self, name: str) -> Any:
        """Refuse; other packages switch to evaluation weights and back by two methods of the optimizer."""
        hint = ": evaluate inside 'with optimizer.evaluating():'" if name in ("eval", "train") else ""
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'{hint}")

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, the parameters hold the rule's evaluation weights (x of the schedule-free rules)."""
        kept = []
        with torch.no_grad():
            for group in self.param_groups:
                rule, updated = self._live(group), [p for p in group["params"] if self.state.get(p)]
                if rule.shared_evaluation_weights():
                    continue
                state = {"slots": {str(i): self.state[p] for i, p in enumerate(updated)}}
                found = rule.evaluation_weights(state, {str(i): p for i, p in enumerate(updated)})
                kept += [(p, p.detach().clone(), found[str(i)]) for i, p in enumerate(updated)]
            for p, _, weights in kept:
                p.copy_(weights)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, before, _ in kept:
                    p.copy_(before)


def _typed(value: Any, fresh: Any, p: Tensor) -> Any:
    """A saved state with its tensors where `p` is, in the types of a fresh one; what that does not hold, as wide as `p`."""
    if isinstance(value, dict):
        return {key: _typed(v, fresh.get(key) if isinstance(fresh, dict) else None, p) for key, v in value.items()}
    if not isinstance(value, Tensor):
        return value
    like = fresh if isinstance(fresh, Tensor) else wide(p)
    return value.to(like.device, like.dtype) if value.is_floating_point() else value.to(like.device)


def _in_own_loop(why: DeclarationError, name: str) -> DeclarationError:
    """The refusal of a parameter with what to do about it in a loop of one's own, where there are no Groups."""
    said, _, hint = why.message.partition("; ")
    if "rg.groups" not in hint:
        return why
    two = f"rg.optim.{name}(hidden, ...), with the matrices of hidden layers alone, and rg.optim.AdamW(rest, ...)"
    return DeclarationError(f"{said}; in your own loop make two optimizers, {two}", why.key)


def _flat(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


@functools.cache
def _generated(rule: type[Tensorwise]) -> type[RuleOptimizer]:
    own = inspect.signature(rule.__init__).parameters.values()
    params = inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    body = {
        "rule": rule,
        "__doc__": f"`regimes.{rule.__name__}` as a torch.optim.Optimizer.\n\n{inspect.getdoc(rule)}",
        "__module__": __name__,
        "__signature__": inspect.Signature([params, *list(own)[1:]]),
    }
    return type(rule.__name__, (RuleOptimizer,), body)


def _rules() -> list[str]:
    return [rule.__name__ for rule in REGISTRY.classes("optimizer") if issubclass(rule, Tensorwise)]


def __getattr__(name: str) -> Any:
    """Generate the optimizer class of the rule called `name`."""
    if name.startswith("__"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    if name not in _rules():
        raise AttributeError(f"regimes.optim has no optimizer '{name}'; {_elsewhere(name)}")
    return _generated(REGISTRY.find(name))


def _elsewhere(name: str) -> str:
    """Where an optimizer is found that is no tensorwise rule."""
    cls: type[Optimizer] | None = next((c for c in REGISTRY.classes("optimizer") if c.__name__ == name), None)
    if cls is not None:
        inner = [key for key, info in fields.table(cls).items() if info.annotation is Optimizer]
        reasons = ["it evaluates the model itself"] if cls.single_evaluation is False else []
        reasons += [f"it stands around another rule, its {inner[0]}"] if inner else []
        why = " and ".join(reasons) or "it is not written for one tensor at a time"
        return f"rg.{name} needs a run ({why}): rg.run(work, rg.Regime(optimizer=rg.{name}(...), ...))"
    if isinstance(getattr(torch.optim, name, None), type):
        return f"torch.optim.{name} is one, and rg.lr_scheduler moves it too"
    return nearest(name, _rules())


def __dir__() -> list[str]:
    return sorted([*globals(), *_rules()])
