"""The suite finds what it is there for: each component here breaks one contract, and is caught by the check named."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

import regimes as rg
from regimes.core.component import fixed, knob
from regimes.core.kinds import (
    Augment,
    Averager,
    Controller,
    Draw,
    GradTransform,
    Knob,
    Loss,
    ModelTransform,
    Optimizer,
    Probe,
    Sampler,
    Schedule,
    Selector,
    TransformResult,
)
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import OutputLoss, predict
from regimes.probes.base import ViewProbe
from regimes.testing import conformance

COUNTER = itertools.count()
CAUGHT = []
#: What fails together where a run is not the same after a rebuild.
RESUMES = ("resumes bitwise", "resumes bitwise with lag and micro-batches")
SEAM = "resumes bitwise over a carried seam"


STACKED = "stacked is as alone"


def caught_by(*names):
    """Declare which checks have to fail; all others have to pass."""

    def declare(cls):
        CAUGHT.append((cls, set(names)))
        return cls

    return declare


# -- declarations ----------------------------------------------------------------------------------------


class PlainRate(Schedule):
    peak: float = fixed(0.1, low=0)

    def curve(self, x):
        return self.peak * (1.0 - x)


@caught_by("prints itself back")
class Forgetful(PlainRate):
    final: float = fixed(0.0)

    def curve(self, x):
        return self.peak + (self.final - self.peak) * x

    def printed_arguments(self):
        return [f"{self.peak!r}"]

    @classmethod
    def example(cls):
        return cls(0.1, final=0.05)


@caught_by("refuses what is out of bounds")
class Unchecked(PlainRate):
    def __post_init__(self):
        object.__setattr__(self, "warmup", rg.Duration.parse(self.warmup))


@caught_by("refuses what is out of bounds")
class Grumpy(PlainRate):
    def __post_init__(self):
        try:
            super().__post_init__()
        except rg.DeclarationError:
            raise rg.DeclarationError("no") from None


@caught_by("refuses unknown fields")
class Swallowing(PlainRate):
    def __init__(self, peak=0.1, **whatever):
        object.__setattr__(self, "peak", peak)
        for name, info in rg.core.fields.table(type(self)).items():
            value = whatever.get(name, info.default) if name != "peak" else peak
            object.__setattr__(self, name, info.coerce(value, name))

    __init__._wrapped_by_regimes = True


@caught_by("is frozen")
class Open(PlainRate):
    pass


Open.__setattr__ = object.__setattr__


@caught_by("is frozen", "prints itself back")
class Mutable(PlainRate):
    marks: tuple[float, ...] = fixed((1.0, 0.5))

    def validate(self):
        object.__setattr__(self, "marks", list(self.marks))


@caught_by("does nothing in its constructor")
class Eager(PlainRate):
    def validate(self):
        object.__setattr__(self, "_table", (self.peak, 0.0))


@caught_by("does nothing in its constructor")
class Drawing(PlainRate):
    def validate(self):
        random.random()


@caught_by("an example can be made")
class Greedy(Controller):
    needs = ("losses",)

    def value(self, state, at):
        return 0.1


# -- schedules -------------------------------------------------------------------------------------------


@caught_by("is a pure function of progress", "warms up from zero", *RESUMES, STACKED)
class Jumpy(PlainRate):
    def curve(self, x):
        return self.peak * (1.0 + 1e-3 * next(COUNTER))


@caught_by("is finite to the end")
class Cliff(PlainRate):
    def curve(self, x):
        return self.peak if x < 1.0 else 0


@caught_by("has a peak")
class Headless(Schedule):
    start: float = fixed(0.1, low=0)

    def curve(self, x):
        return self.start * (1.0 - x)


@caught_by("warms up from zero", "acts on every field")
class Cold(PlainRate):
    def bind(self, span):
        return lambda at: self.peak * (1.0 - at.fraction)


@caught_by("acts on every field")
class ForShow(PlainRate):
    final: float = fixed(0.0)


# -- samplers --------------------------------------------------------------------------------------------


class Uniform(Sampler):
    def start(self, view, key):
        return {}

    def draw(self, state, cursor, n, ctx):
        return Draw(ctx.rng("uniform").integers(ctx.view.size, size=n), cursor)


@caught_by("keeps nothing on itself", "draws the same again", *RESUMES, SEAM)
class Hoarder(Uniform):
    def draw(self, state, cursor, n, ctx):
        count = getattr(self, "_count", 0)
        object.__setattr__(self, "_count", count + 1)
        return Draw((np.arange(n) + count) % ctx.view.size, cursor)


@caught_by("draws the same again", *RESUMES, SEAM, STACKED)
class Careless(Uniform):
    def draw(self, state, cursor, n, ctx):
        return Draw(np.random.randint(ctx.view.size, size=n), cursor)


@caught_by(*RESUMES, SEAM)
class Amnesiac(Uniform):
    needs = ("units",)

    def init(self, view):
        return {"cache:seen": 0}

    def draw(self, state, cursor, n, ctx):
        return Draw((np.arange(n) + 5 * state.get("cache:seen", 0)) % ctx.view.size, cursor)

    def observe(self, state, signals, at):
        return {"cache:seen": state.get("cache:seen", 0) + 1}


@caught_by("draws the same again", "leaves a skipped step untouched", SEAM)
class Learning(Uniform):
    def init(self, view):
        return {"draws": 0}

    def draw(self, state, cursor, n, ctx):
        state["draws"] += 1
        return super().draw(state, cursor, n, ctx)


@caught_by("draws the same again", "resumes bitwise with lag and micro-batches")
class Walking(Uniform):
    def start(self, view, key):
        return {"next": 0}

    def draw(self, state, cursor, n, ctx):
        cursor["next"] += n
        return Draw((np.arange(n) + cursor["next"]) % ctx.view.size, cursor)


@caught_by("draws what can be fetched")
class Short(Uniform):
    def draw(self, state, cursor, n, ctx):
        return Draw(ctx.rng("short").permutation(ctx.view.size)[:n], cursor)


@caught_by("draws what can be fetched")
class Negative(Uniform):
    def draw(self, state, cursor, n, ctx):
        drawn = super().draw(state, cursor, n, ctx)
        return drawn._replace(weights=np.where(drawn.indices == 0, 0.0, 1.0))


@caught_by("observes once a step")
class Meddling(Uniform):
    needs = ("weights",)

    def observe(self, state, signals, at):
        for w in signals["weights"].values():
            w.data.mul_(1.001)
        return state


# -- losses ----------------------------------------------------------------------------------------------


class PlainLoss(OutputLoss):
    def per_unit(self, output, target):
        return UnitLosses(torch.nn.functional.cross_entropy(output, target, reduction="none"))


@caught_by("gives unreduced losses", "is separable as it says", "leaves a skipped step untouched")
class Advancing(Loss):
    def init(self):
        return {"calls": 0}

    def units(self, state, model, batch):
        state["calls"] += 1
        output, _ = predict(model, batch)
        return UnitLosses((output.flatten(1) ** 2).sum(1) * (1 + 0.1 * state["calls"]))


@caught_by("gives unreduced losses", "is separable as it says")
class Reduced(PlainLoss):
    def per_unit(self, output, target):
        return UnitLosses(super().per_unit(output, target).values.mean().view(1))


@caught_by("is separable as it says")
class Centered(PlainLoss):
    def per_unit(self, output, target):
        values = super().per_unit(output, target).values
        return UnitLosses((values - values.mean()) ** 2 + values)


# -- optimizers ------------------------------------------------------------------------------------------


class Descent(Optimizer):
    lr: Knob = knob(0.05, low=0)

    def init(self, parameters):
        return {"t": 0}

    @torch.no_grad()
    def apply(self, parameters, gradients):
        for p, g in zip(parameters.values(), gradients):
            p.add_(g, alpha=-self.lr)

    def step(self, state, parameters, evaluate):
        gradients = evaluate().gradients
        state["t"] += 1
        self.apply(parameters, gradients)
        return state


@caught_by(STACKED)
class Sprawling(Descent):
    """Looks at the memory around its parameters, which in a stack is that of others."""

    def apply(self, parameters, gradients):
        for p, g in zip(parameters.values(), gradients):
            p.add_(g, alpha=-self.lr * p.numel() * p.element_size() / p.untyped_storage().nbytes())

    def step(self, state, parameters, evaluate):
        with torch.no_grad():
            return super().step(state, parameters, evaluate)


@caught_by("writes after its last evaluation", "leaves a skipped step untouched")
class Hasty(Descent):
    single_evaluation = False

    def step(self, state, parameters, evaluate):
        self.apply(parameters, evaluate(final=False).gradients)
        self.apply(parameters, evaluate().gradients)
        return state


@caught_by("writes after its last evaluation", "leaves a skipped step untouched")
class Counting(Descent):
    def step(self, state, parameters, evaluate):
        state["t"] += 1
        self.apply(parameters, evaluate().gradients)
        return state


@caught_by("leaves gradients as they are")
class Borrowing(Descent):
    """Scales in the gradient's own memory."""

    @torch.no_grad()
    def apply(self, parameters, gradients):
        for p, g in zip(parameters.values(), gradients):
            p.sub_(g.mul_(self.lr))


@caught_by("leaves gradients as they are")
class Decaying(Descent):
    """Does so only where decay is switched on, which it is not in its example."""

    weight_decay: Knob = knob(0.0, low=0)

    @torch.no_grad()
    def apply(self, parameters, gradients):
        for p, g in zip(parameters.values(), gradients):
            p.sub_((g.add_(p, alpha=self.weight_decay) if self.weight_decay != 0.0 else g) * self.lr)


@caught_by("evaluates finally once")
class Twice(Descent):
    single_evaluation = False

    def step(self, state, parameters, evaluate):
        evaluate()
        return super().step(state, parameters, evaluate)


@caught_by("evaluates finally once")
class Pretender(Descent):
    def step(self, state, parameters, evaluate):
        evaluate(final=False)
        return super().step(state, parameters, evaluate)


MOMENTUM = {}


@caught_by(*RESUMES, SEAM, "takes a schedule for every knob", STACKED)
class Global(Descent):
    @torch.no_grad()
    def step(self, state, parameters, evaluate):
        for (name, p), g in zip(parameters.items(), evaluate().gradients):
            MOMENTUM[name] = g + 0.9 * MOMENTUM.get(name, 0.0)
            p.sub_(self.lr * MOMENTUM[name])
        return state


@caught_by("knows a change of every knob", "acts on every field")
class Stubborn(Descent):
    def replace(self, segment, value):
        usual = isinstance(value, float) and 0.0 <= value < 10.0
        return self if usual else super().replace(segment, value)


@caught_by("acts on every field")
class Lazy(Descent):
    weight_decay: Knob = knob(0.0, low=0)


@caught_by("takes a schedule for every knob", "takes a controller for every knob")
class Impatient(Descent):
    def init(self, parameters):
        return {"lr": float(self.lr)}

    def step(self, state, parameters, evaluate):
        self.apply(parameters, evaluate().gradients)
        return state


@caught_by("has a state of plain values")
class ByPlace(Descent):
    def init(self, parameters):
        return {"slots": {str(i): torch.zeros_like(p) for i, p in enumerate(parameters.values())}}

    def step(self, state, parameters, evaluate):
        self.apply(parameters, evaluate().gradients)
        return state


@caught_by("has a pure init", *RESUMES, SEAM, "takes a schedule for every knob", STACKED)
class Noisy(Descent):
    def init(self, parameters):
        return {"slots": {name: torch.randn(p.shape) for name, p in parameters.items()}}

    def step(self, state, parameters, evaluate):
        self.apply(parameters, [g + 0.1 * s for g, s in zip(evaluate().gradients, state["slots"].values())])
        return state


@caught_by("has a state of plain values", *RESUMES, SEAM, STACKED)
class Exotic(Descent):
    def init(self, parameters):
        return {"names": set(parameters)}

    def step(self, state, parameters, evaluate):
        self.apply(parameters, evaluate().gradients)
        return state


@caught_by("moves the weights", STACKED)
class Everything(Descent):
    def step(self, state, parameters, evaluate):
        model = evaluate.run.model
        gradients = evaluate().gradients
        self.apply(parameters, gradients)
        with torch.no_grad():
            model[4].bias.mul_(0.9)
        return state


@caught_by("shows its base's evaluation weights")
class Hiding(Optimizer):
    base: Optimizer = fixed()

    @classmethod
    def example(cls):
        return cls(rg.SGD(lr=0.05))

    def step(self, state, parameters, evaluate):
        state["base"] = self.base.step(state["base"], parameters, evaluate)
        return state


class Showing(Hiding):
    def evaluation_weights(self, state, parameters):
        return self.base.evaluation_weights(state["base"], parameters)

    def shared_evaluation_weights(self):
        return self.base.shared_evaluation_weights()


@caught_by("lets its parts observe")
class Deaf(Showing):
    def observe(self, state, signals, at):
        return state


@caught_by("lets its parts observe")
class Forgetting(Deaf):
    def observe(self, state, signals, at):
        self.base.observe(dict(state["base"]), signals, at)
        return state


@caught_by("observes once a step")
class Eavesdropper(Descent):
    def step(self, state, parameters, evaluate):
        state = super().step(state, parameters, evaluate)
        return self.observe(state, {}, None)

    def observe(self, state, signals, at):
        state["heard"] = state.get("heard", 0) + 1
        return state


@caught_by("shows evaluation weights")
class Swapping(Descent):
    @torch.no_grad()
    def evaluation_weights(self, state, parameters):
        for p in parameters.values():
            p.mul_(0.99)
        return parameters


@caught_by("shows evaluation weights")
class Sharing(Descent):
    def evaluation_weights(self, state, parameters):
        return {name: p.detach() * 0.5 for name, p in parameters.items()}

    def shared_evaluation_weights(self):
        return True


@caught_by(SEAM)
class Trespassing(Descent):
    """The key ``owned`` is that of groups: at a seam it starts afresh."""

    def init(self, parameters):
        return {"owned": 0}

    def step(self, state, parameters, evaluate):
        self.apply(parameters, evaluate().gradients)
        state["owned"] += 1
        return state


@caught_by("resumes bitwise in every example")
class Sometimes(Descent):
    nesterov: bool = fixed(False)

    @classmethod
    def example(cls):
        return [cls(), cls(nesterov=True)]

    def step(self, state, parameters, evaluate):
        state = super().step(state, parameters, evaluate)
        if self.nesterov:
            state["cache:sum"] = state.get("cache:sum", 0.0) + 0.01
            parameters["4.bias"].data.add_(state["cache:sum"])
        return state


# -- the other kinds -------------------------------------------------------------------------------------


@caught_by("averages what it is shown")
class Biased(Averager):
    decay: Knob = knob(0.9, low=0, high=1)

    def init(self, parameters):
        return {"slots": {name: torch.zeros_like(p) for name, p in parameters.items()}}

    def observe(self, state, signals, at):
        for name, w in signals["weights"].items():
            state["slots"][name].lerp_(w.detach(), 1.0 - self.decay)
        return state

    def average(self, state):
        return state["slots"]


@caught_by("averages what it is shown")
class Greedier(rg.EMA):
    def average(self, state):
        state["count"] += 1
        return super().average(state)


@caught_by("transforms gradients in form")
class Unit(GradTransform):
    def apply(self, state, gradients, ctx):
        return tuple(g / g.norm() for g in gradients)


@caught_by("transforms gradients in form", *RESUMES, SEAM, STACKED)
class Dice(GradTransform):
    def apply(self, state, gradients, ctx):
        return tuple(g + 0.01 * torch.from_numpy(np.random.randn(*g.shape)).to(g) for g in gradients)


@caught_by("transforms gradients in form")
class Remembering(GradTransform):
    def init(self, parameters):
        return {"applied": 0}

    def apply(self, state, gradients, ctx):
        state["applied"] += 1
        return gradients


class Jitter(Augment):
    std: Knob = knob(0.1, low=0)

    def apply(self, state, batch, generator):
        x, y = batch
        return x + self.std * torch.randn(x.shape, generator=generator), y


@caught_by("augments in form", *RESUMES, "takes a schedule for every knob", STACKED)
class Shaky(Jitter):
    def apply(self, state, batch, generator):
        return super().apply(state, batch, torch.Generator().manual_seed(random.randrange(1000)))


@caught_by("augments in form")
class Doubling(Jitter):
    def apply(self, state, batch, generator):
        x, y = super().apply(state, batch, generator)
        return [x, y]


@caught_by("augments in form", "leaves a skipped step untouched", STACKED)
class Noting(Jitter):
    def init(self):
        return {"batches": 0}

    def apply(self, state, batch, generator):
        state["batches"] += 1
        return super().apply(state, batch, generator)


class Hardest(Selector):
    def select(self, state, units):
        return (units.values >= units.values.median()).to(units.values)


@caught_by("has a value before any signal", "leaves a skipped step untouched", STACKED)
class Drifting(Controller):
    def init(self):
        return {"reads": 0}

    def value(self, state, at):
        state["reads"] += 1
        return 0.1 / state["reads"]


@caught_by("an example can be made")
class Picky(Selector):
    def select(self, state, units):
        return torch.zeros(3)


@caught_by("selects with a weight per unit")
class Twelve(Selector):
    """Right for the batches of the small runs, wrong for twelve units."""

    def select(self, state, units):
        return torch.ones_like(units.values) if len(units.values) != 12 else torch.full_like(units.values, math.inf)


@caught_by("is asked in a run")
class Idle(Augment):
    """A batch goes past it: the engine would ask by the method, and the class never hears of it."""

    def __getattribute__(self, name):
        return (lambda state, batch, generator: batch) if name == "apply" else super().__getattribute__(name)


@caught_by("builds the same structure again")
class Whimsical(ModelTransform):
    def structure(self, model):
        # Reads, but does not move, a global generator: another process may build another structure.
        model[1].bias.requires_grad_(bool(np.random.get_state()[1][0] != 2))
        return model


@caught_by("builds the same structure again")
class Misnaming(ModelTransform):
    def fill(self, model, before, batches, streams):
        return TransformResult({name: f"old.{name}" for name, _ in model.named_parameters()})


@caught_by("gives numbers", "disturbs nothing alone")
class Broken(ViewProbe):
    def measure(self, view):
        raise RuntimeError("out of order")


@caught_by("disturbs nothing in a run", "disturbs nothing alone")
class Surgeon(ViewProbe):
    def measure(self, view):
        view.model[4] = torch.nn.Linear(8, 2)
        return {"": 1.0}


@caught_by("disturbs nothing alone")
class Fickle(ViewProbe):
    def measure(self, view):
        return {"": float(next(COUNTER))}


@caught_by("disturbs nothing alone")
class Unusable(Probe):
    def measure(self, view):
        return {"": 1.0}


def failures(component):
    return set(conformance.report([component]).rows[0].failed)


@pytest.mark.parametrize(("cls", "names"), CAUGHT, ids=[cls.__name__ for cls, _ in CAUGHT])
def test_caught_by_the_checks_named_and_by_no_other(cls, names):
    assert failures(cls) == names, conformance.report([cls])


@pytest.mark.parametrize("sound", [PlainRate, Uniform, PlainLoss, Descent, Jitter, Hardest])
def test_the_sound_ones_that_the_broken_are_made_of_pass(sound):
    found = conformance.report([sound])
    assert found.ok, found


def test_an_unknown_need_is_named():
    (row,) = conformance.report([Greedy]).rows
    assert "there is no signal 'losses'" in row.failed["an example can be made"]


class Bare(PlainRate):
    """No card, no example."""


class Misplaced(PlainRate):
    """Has a card.

    >>> 1 + 1
    2
    """

    card = rg.Card(title="t", axes=("speed",), source="nobody")


def test_cards_and_doctests_are_asked_of_what_is_registered(monkeypatch):
    entries = {"Bare": Bare, "Misplaced": Misplaced}
    monkeypatch.setattr(rg.core.registry.REGISTRY, "_entries", rg.core.registry.REGISTRY._entries | entries)
    name = "has a card and an example"
    assert conformance.report([Bare]).rows[0].failed == {name: "NonConformance: Bare has no card of its own"}
    assert "card.axes is ('speed',)" in conformance.report([Misplaced]).rows[0].failed[name]


def test_every_rule_is_proved_by_a_broken_component():
    proved = set().union(*(names for _, names in CAUGHT)) | {"has a card and an example"}
    assert {rule.name for rule in conformance.RULES} - proved == set()
