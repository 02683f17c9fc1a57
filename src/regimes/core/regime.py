"""A Phase is one stretch of training; a Regime is an ordered tuple of them. Both are frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from regimes.core import display, fields, paths
from regimes.core.component import Component, fixed, knob
from regimes.core.duration import Duration
from regimes.core.errors import FOREIGN, DeclarationError, nearest, show
from regimes.core.fields import UNSET
from regimes.core.kinds import (
    Augment,
    Averager,
    GradTransform,
    Knob,
    Loss,
    ModelTransform,
    Optimizer,
    Sampler,
    Schedule,
    Selector,
)
from regimes.core.registry import REGISTRY, register

#: Slots whose knobs belong to the plan: they are read when a plan is drawn.
DATA_SLOTS = ("batch_size", "mixture", "sampler", "augment")


@register
class Phase(Component):
    """One stretch of training. What is left out comes from the regime, then from the default.

    Parameters
    ----------
    name : str
        Part of every path; unique in the regime.
    budget : Duration
        How long; a percentage is of the regime's budget.
    optimizer : Optimizer
        The update rule, or Groups of rules.
    batch_size : knob, integer
        Examples per step.
    micro_batch : int, "auto" or None
        Examples per forward; None is the whole batch. Dropout, BatchNorm and contrastive losses see it.
    mixture : Sampler or None
        A Mixture over the workload's named sources.
    sampler : Sampler or None
        Which examples; inside each source where there is a mixture. Default Reshuffle().
    augment : tuple of Augment
        Changes of the fetched batch.
    loss : Loss or None
        What is trained on; None is the workload's loss.
    selector : Selector or None
        Which units of the batch to train on, after a scoring pass.
    grad_transforms : tuple of GradTransform
        Applied in order to the final gradient.
    average : Averager or None
        Weights to evaluate and keep beside the trained ones.
    evaluate : Duration or None
        Cadence of the validation that a component needs.
    trainable : tuple of str
        Patterns of parameter names that are trained; empty is all that require gradients.
    on_entry : tuple of ModelTransform
        What happens to the model on entering the phase.
    carry : tuple of str
        What is kept over the seam, by path: "model" (default), "optimizer", "average", "cursor", ...
    precision : "float32", "bfloat16" or None
        Autocast of the forward.
    compile : bool
        Whether forward and backward of training, and the updates of elementwise rules, go through `torch.compile`: the
        same to rounding, and faster where steps are many; the first one takes seconds to minutes. Of several runs that are
        trained side by side forward and backward are compiled as one. Default False.
    lag : int
        Steps between drawing a plan and training on it, beyond the one that is needed anyway.
    """

    name: str = fixed("main")
    budget: Duration | None = fixed(UNSET, unset=True)
    optimizer: Optimizer = fixed(UNSET, unset=True)
    # More would be a slip (tokens given as examples) that costs all memory before it is noticed.
    batch_size: Knob = knob(UNSET, low=1, high=10_000_000, integer=True, unset=True)
    micro_batch: int | Literal["auto"] | None = fixed(UNSET, low=1, unset=True)
    mixture: Sampler | None = fixed(UNSET, unset=True)
    sampler: Sampler | None = fixed(UNSET, unset=True)
    augment: tuple[Augment, ...] = fixed(UNSET, unset=True)
    loss: Loss | None = fixed(UNSET, unset=True)
    selector: Selector | None = fixed(UNSET, unset=True)
    grad_transforms: tuple[GradTransform, ...] = fixed(UNSET, unset=True)
    average: Averager | None = fixed(UNSET, unset=True)
    evaluate: Duration | None = fixed(UNSET, unset=True)
    trainable: tuple[str, ...] = fixed(UNSET, unset=True)
    on_entry: tuple[ModelTransform, ...] = fixed(UNSET, unset=True)
    carry: tuple[str, ...] = fixed(UNSET, unset=True)
    precision: Literal["float32", "bfloat16"] | None = fixed(UNSET, unset=True)
    lag: int = fixed(UNSET, low=0, high=64, unset=True)
    compile: bool = fixed(UNSET, unset=True)

    kind = "phase"

    def validate(self) -> None:
        """Refuse a name that cannot stand in a path."""
        if not self.name.replace("-", "_").isidentifier() or self.name in fields.table(Phase):
            raise DeclarationError(f"got {show(self.name)}; allowed: a word that is no field of a phase", "name")

    def completed(self, defaults: Mapping[str, Any]) -> Phase:
        """Return the phase with every open field filled: from the regime's defaults, then from ours."""
        filled = {}
        for name in fields.table(Phase):
            if getattr(self, name) is UNSET:
                filled[name] = defaults[name] if name in defaults else _default(name)
        mixture, sampler = (filled.get(name, getattr(self, name)) for name in ("mixture", "sampler"))
        if mixture is not None and "sampler" not in fields.table(type(mixture)):
            raise DeclarationError(f"got {show(mixture)}; allowed: a Mixture over named sources", "mixture")
        if mixture is not None:
            if sampler is not None:
                filled["mixture"] = self._with_inner(mixture, sampler)
            filled["sampler"] = None
        elif sampler is None:
            filled["sampler"] = _default_sampler()
        values = {name: getattr(self, name) for name in fields.table(Phase)}
        return Phase(**(values | filled))

    def _with_inner(self, mixture: Any, sampler: Sampler) -> Any:
        """The mixture with this sampler inside its sources; its own stays where the other is only a default."""
        own = mixture.sampler
        if own is None or own == sampler:
            return mixture.replace("sampler", sampler)
        if self.sampler is UNSET:
            return mixture
        raise DeclarationError(
            f"got {show(sampler)}, but the mixture has {show(own)} inside its sources; give one of them", "sampler"
        )

    def printed_arguments(self) -> list[str]:
        """Arguments of the printed form, without those at their default."""
        given = {name: getattr(self, name) for name in fields.table(Phase) if name != "name"}
        return [repr(self.name), *_printed_fields(given)]

    @property
    def data_slot(self) -> str:
        """Which slot draws: "mixture" or "sampler"."""
        return "sampler" if self.mixture is None else "mixture"


def _default_sampler() -> Sampler:
    return REGISTRY.default("sampler")()


def _default(name: str) -> Any:
    if name == "optimizer":
        raise DeclarationError("a phase needs an optimizer, for example AdamW(lr=1e-3)", "optimizer")
    if name == "batch_size":
        raise DeclarationError("a phase needs a batch_size: examples per step", "batch_size")
    defaults = {
        "augment": (),
        "grad_transforms": (),
        "trainable": (),
        "on_entry": (),
        "carry": ("model",),
        "lag": 0,
        "compile": False,
    }
    return defaults.get(name)


def _printed_fields(given: Mapping[str, Any]) -> list[str]:
    shown = []
    for name, value in given.items():
        plain = name in ("optimizer", "batch_size")
        at_default = value is UNSET or (not plain and _is_default(name, value))
        if not at_default:
            shown.append(f"{name}={fields.printed(value)}")
    return shown


def _is_default(name: str, value: Any) -> bool:
    if name == "sampler":
        return value is None or value == _default_sampler()
    return fields.same(value, _default(name))


@register
class Regime(Component):
    """How a network is trained: phases in order, a total budget, and defaults for all phases.

    Parameters
    ----------
    phases : sequence of Phase, optional
        Left out, there is one phase called ``main`` and the phase fields are given here.
    budget : Duration, optional
        The whole; percentages in phases are of it.
    **defaults
        Any field of `Phase`: the default for all phases that do not say otherwise.

    Raises
    ------
    DeclarationError
        For unknown fields, values out of range, budgets that do not add up, names given twice.

    Examples
    --------
    >>> import regimes as rg
    >>> base = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-3, warmup="5%")), batch_size=64, budget="10 epochs")
    >>> base
    Regime(optimizer=AdamW(lr=Cosine(0.001, warmup='5%')), batch_size=64, budget='10 epochs')
    >>> base.but(peak=2e-3).diff(base)
    [Difference(path='optimizer.lr.peak', old='0.002', new='0.001')]
    >>> base.but(lr=1e-3)
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: optimizer.lr: got 0.001 where Cosine(0.001, warmup='5%') stands; \
to change its height edit '.peak', to drop it write Constant(0.001)
    """

    phases: tuple[Phase, ...] = fixed()
    budget: Duration | None = fixed(None)

    kind = "regime"

    def __init__(self, phases: Any = None, *, budget: Any = None, **defaults: Any) -> None:
        names = [name for name in fields.table(Phase) if name not in ("name", "budget")]
        for name in defaults:
            if name not in names:
                hint = field_hint(name, [*names, "phases", "budget"])
                raise DeclarationError(f"Regime has no field '{name}'; {hint}", name)
        defaults = {name: fields.table(Phase)[name].coerce(value, name) for name, value in defaults.items()}
        given = (Phase(),) if phases is None else fields.table(Regime)["phases"].coerce(phases, "phases")
        whole = fields.table(Regime)["budget"].coerce(budget, "budget")
        done = []
        for phase in given:
            try:
                done.append(phase.completed(defaults))
            except DeclarationError as why:
                raise (why if len(given) == 1 else why.within(phase.name)) from None
        if len(done) == 1 and done[0].budget is not None:
            whole = _one_budget(whole, done[0].budget)
            done[0] = Phase(**_values(done[0]) | {"budget": None})
        object.__setattr__(self, "phases", tuple(done))
        object.__setattr__(self, "budget", whole)
        self.validate()

    __init__._wrapped_by_regimes = True  # type: ignore[attr-defined]

    def validate(self) -> None:
        """Check names and budgets."""
        if not self.phases:
            raise DeclarationError("needs at least one phase", "phases")
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise DeclarationError(f"got the names {names}; allowed: each name once", "phases")
        _check_budgets(self)
        _check_warmups(self)

    def __getattr__(self, name: str) -> Any:
        """A field of the phase, where there is one phase: ``base.optimizer``."""
        phases = self.__dict__.get("phases", ())
        if name.startswith("_") or name not in fields.table(Phase):
            raise AttributeError(f"Regime has no attribute '{name}'")
        if len(phases) != 1:
            raise AttributeError(f"a regime of {len(phases)} phases has no single '{name}'; ask one of its phases")
        return getattr(phases[0], name)

    # -- paths ---------------------------------------------------------------------------------------------

    def children(self) -> Any:
        """Phases by name, then the budget."""
        for phase in self.phases:
            yield phase.name, phase
        yield "budget", self.budget

    def replace(self, segment: str, value: Any) -> Regime:
        """Return a validated copy with one phase, or the budget, replaced."""
        if segment == "budget":
            return Regime(self.phases, budget=value)
        if segment not in [phase.name for phase in self.phases]:
            hint = nearest(segment, [phase.name for phase in self.phases])
            raise DeclarationError(f"there is no phase '{segment}'; {hint}", segment)
        return Regime([value if phase.name == segment else phase for phase in self.phases], budget=self.budget)

    def implied_leads(self) -> tuple[str, ...]:
        """A path without a phase is allowed where there is one phase."""
        return (self.phases[0].name,) if len(self.phases) == 1 else ()

    def hint(self, name: str, options: Iterable[str]) -> str:
        """Half a sentence for a path that fits nothing here: the nearest, or what it takes to have it."""
        return field_hint(name, options)

    def but(self, edits: Mapping[str, Any] | None = None, /, **more: Any) -> Regime:
        """Return a copy with values replaced, by path or by an ending that fits one path.

        Parameters
        ----------
        edits : mapping of str to value, optional
            For keys with dots: ``base.but({"optimizer.lr.peak": 1e-3})``; ``*`` edits all that fit.
        **more
            The same by keyword: ``base.but(batch_size=128)``.
        """
        try:
            return paths.edit(self, {**(edits or {}), **more})
        except DeclarationError as why:
            lead = self.implied_leads()
            if lead and why.key.startswith(f"{lead[0]}."):
                raise DeclarationError(why.message, why.key[len(lead[0]) + 1 :]) from None
            raise

    def diff(self, other: Regime) -> list[paths.Difference]:
        """Return where this regime differs from another, as knob paths."""
        found = paths.diff(self, other)
        if len(self.phases) == len(other.phases) == 1 and self.phases[0].name == other.phases[0].name:
            lead = f"{self.phases[0].name}."
            return [item._replace(path=item.path.removeprefix(lead)) for item in found]
        return found

    @property
    def hash(self) -> str:
        """Content hash: equal declarations have equal hashes, on every machine."""
        return paths.digest(self)

    def printed_arguments(self) -> list[str]:
        """One phase prints flat; what all phases share prints once."""
        budget = [] if self.budget is None else [f"budget={fields.printed(self.budget)}"]
        if len(self.phases) == 1 and self.phases[0].name == "main":
            return [*self.phases[0].printed_arguments()[1:], *budget]
        first, rest = self.phases[0], self.phases[1:]
        names = [name for name in fields.table(Phase) if name not in ("name", "budget", "on_entry", "carry")]
        shared = {
            name: getattr(first, name)
            for name in names
            if rest and all(fields.same(getattr(p, name), getattr(first, name)) for p in rest)
        }
        own = [p.with_values(dict.fromkeys(shared, UNSET)) for p in self.phases]
        return [f"phases={fields.printed(tuple(own))}", *_printed_fields(shared), *budget]

    _repr_html_ = display.html


#: Where in a phase a component of each kind stands; a schedule or controller stands where a number does.
_SLOTS = {
    "augment": "augment",
    "averager": "average",
    "controller": "lr",
    "grad_transform": "grad_transforms",
    "loss": "loss",
    "model_transform": "on_entry",
    "optimizer": "optimizer",
    "sampler": "sampler",
    "schedule": "lr",
    "selector": "selector",
}


#: What people look for in a regime, and where it is.
_OF_OTHERS = {
    (
        "seed",
        "probes",
        "validate",
        "checkpoint",
        "max_time",
        "give_up",
        "reduce",
        "out",
    ): "run: rg.run(workload, regime, seed)",
    ("model", "train", "val", "test", "metrics"): "workload: rg.Workload(model=..., train=..., val=...)",
}


def field_hint(name: str, options: Iterable[str]) -> str:
    """Return a half sentence for a name that is no field of a regime.

    Examples
    --------
    >>> field_hint("clip_norm", ["batch_size", "budget"])
    'write grad_transforms=ClipNorm(...)'
    >>> field_hint("lr", ["batch_size", "budget"])
    'it belongs inside a component, for example AdamW(lr=...)'
    """
    options = list(options)
    for names, owner in _OF_OTHERS.items():
        if name in names:
            return f"it belongs to the {owner}"
    ours = FOREIGN.get(name.lower(), name).rsplit(".", 1)[-1]
    found = nearest(name, options)
    if ours in options or not found.startswith("allowed: "):
        return found
    called = f"here it is called '{ours}' and" if ours != name else "it"
    squashed = name.replace("_", "").lower()
    for cls in REGISTRY.classes():
        if cls.__name__.lower() == squashed and getattr(cls, "kind", "") in _SLOTS:
            return f"write {_SLOTS[cls.kind]}={cls.__name__}(...)"
    holders = [cls for cls in REGISTRY.classes() if ours in fields.table(cls) and cls not in (Phase, Regime)]
    if holders:
        return f"{called} belongs inside a component, for example {min(holders, key=fields.usual).__name__}({ours}=...)"
    return found


def _values(phase: Phase) -> dict[str, Any]:
    return {name: getattr(phase, name) for name in fields.table(Phase)}


def _one_budget(whole: Duration | None, own: Duration) -> Duration:
    if own.unit == "%":
        if whole is None or own.value != 100.0:
            raise DeclarationError(
                f"got '{own}'; allowed for a single phase: an amount, or 100% of the regime's", "budget"
            )
        return whole
    if whole is not None and whole != own:
        raise DeclarationError(f"got '{own}' in the phase and '{whole}' in the regime; say it once", "budget")
    return own


def _check_budgets(regime: Regime) -> None:
    if regime.budget is not None and regime.budget.unit == "%":
        raise DeclarationError(
            f"got '{regime.budget}', a share of nothing; write for example '500 steps' or '2 epochs'", "budget"
        )
    if len(regime.phases) == 1:
        if regime.budget is None:
            raise DeclarationError(
                "needs a value: how long to train, for example '10 epochs' or '300k tokens'", "budget"
            )
        _check_amount(regime.budget, "budget")
        return
    for phase in regime.phases:
        key = f"{phase.name}.budget"
        if phase.budget is None:
            raise DeclarationError("needs a value: each of several phases has its own budget", key)
        _check_amount(phase.budget, key)
        if phase.budget.unit == "%" and regime.budget is None:
            raise DeclarationError(f"got '{phase.budget}', a share of the regime's budget, which is not given", key)
    shares = [phase.budget.value for phase in regime.phases if phase.budget is not None and phase.budget.unit == "%"]
    if regime.budget is not None:
        _check_amount(regime.budget, "budget")
        if not shares:
            raise DeclarationError(
                "got a value, but no phase takes a share of it; write budgets in one place", "budget"
            )
    if sum(shares) > 100 + 1e-9 or (len(shares) == len(regime.phases) and abs(sum(shares) - 100) > 1e-9):
        raise DeclarationError(f"phases take {sum(shares):g}% of it; allowed: 100%", "budget")


def _check_amount(budget: Duration, key: str) -> None:
    if budget.value <= 0:
        raise DeclarationError(f"got '{budget}'; allowed: more than nothing", key)


def _check_warmups(regime: Regime) -> None:
    """Refuse a warm-up that no stretch can hold; in other units the length of the stretch is known later."""
    lead = len(regime.phases) > 1
    for phase in regime.phases:
        for path, value in paths.walk(phase, phase.name if lead else ""):
            if isinstance(value, Schedule) and value.warmup.unit == "%" and value.warmup.value > 100.0:
                raise DeclarationError(
                    f"got '{value.warmup}'; allowed: at most 100% of the stretch that it warms up", f"{path}.warmup"
                )
