"""Whole regimes drawn at random from the registry, and what must hold for each of them."""

from __future__ import annotations

import functools
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from regimes.core import paths
from regimes.core.component import Component
from regimes.core.errors import DeclarationError, RegimesError, RunFailed, UserCodeError
from regimes.core.kinds import Optimizer
from regimes.core.notation import parse
from regimes.core.regime import Phase, Regime
from regimes.core.registry import REGISTRY
from regimes.engine import trees
from regimes.engine.api import run
from regimes.engine.run import Run
from regimes.testing.conformance import tiny
from regimes.testing.conformance.examples import PARTS, candidates
from regimes.testing.resume import elsewhere, through_bytes

#: Steps that a drawn regime is run for, trials included.
STEPS = 30
_SLOTS = {"sampler": "sampler", "loss": "loss", "selector": "selector", "average": "averager"}
_LISTS = {"grad_transforms": "grad_transform", "on_entry": "model_transform", "augment": "augment"}
_MIXTURES = (
    "Mixture(a=0.5, b=0.5)",
    "Mixture(a=Linear(1, 0.2), b=0.5, random=True)",
    "SkillIt(a=1.0, b=1.0, eta=2.0, window=2, graph=[[1, 0.5], [0, 1]])",
    "SkillIt(a=1.0, b=2.0, eta=3.0, window=1, trial='2 steps')",
)
#: What controllers of the batch size read: their values are in examples, and no multiple of a rate.
_OF_BATCHES = {"micro_batch_gradient_norms", "example_gradients"}
_SHARES = {1: ("100%",), 2: ("40%", "60%"), 3: ("30%", "30%", "40%")}


class Drawn(NamedTuple):
    """A regime, the tiny task that it trains on, and what looks on."""

    task: str
    regime: Regime
    probes: tuple[Any, ...]
    seed: int


#: Of `draw`, what it may take for the whole.
BUDGETS = ("30 steps", "30 steps", "150 samples", "6 epochs", "2000 tokens")
_BATCHES = ("Linear(4, 8)", "NoiseScaleGrowth(4, 12)", "AdaptiveBatch(3, 12)")


@functools.cache
def pool(kind: str, shelf: str | None = None) -> tuple[Any, ...]:
    """Return instances of every built-in component of a kind, or of one shelf: those that conformance tries."""
    found = []
    for cls in REGISTRY.classes(kind):
        if shelf is not None and cls.card.shelf != shelf:
            continue
        if cls.__module__.startswith("regimes.") and ".conformance" not in cls.__module__:
            try:
                # What stands on a toy of the conformance suite cannot be declared outside it.
                found += [made for made in candidates(cls) if ".conformance." not in repr(made)]
            except (RegimesError, TypeError):
                continue
    return tuple(found)


@functools.cache
def _runs() -> tempfile.TemporaryDirectory[str]:
    """Where finished runs lie as long as the process lives."""
    return tempfile.TemporaryDirectory(prefix="regimes-random-")


@functools.cache
def weights(task: str) -> tuple[Any, ...]:
    """Return weights of a tiny task: of a finished run, of its raw ones, and a soup of two runs."""
    folders = [Path(_runs().name) / f"{task}-{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        declared = Regime(
            optimizer=parse(PARTS["optimizer"]), batch_size=6, budget="3 steps", average=parse("EMA(0.9)")
        )
        run(tiny.workload(task), declared, seed, out=folder, progress=False)
    one, other = (repr(str(folder)) for folder in folders)
    texts = (f"FromRun({one})", f"FromRun({one}, 'raw')", f"Soup([FromRun({one}), FromRun({other})], [1.0, 3.0])")
    return tuple(map(parse, texts))


@functools.cache
def transforms(task: str, shelf: str | None = None) -> tuple[Any, ...]:
    """Return the transforms that fit the model of a tiny task; without a shelf, those that give it weights among them."""
    found = [parse(f"StartFrom({given!r})") for given in (weights(task) if shelf is None else ())]
    for transform in pool("model_transform", shelf):
        try:
            transform.check(transform.structure(tiny.workload(task).build(0)))
        except RegimesError:
            continue
        found.append(transform)
    return tuple(found)


def _batch(task: str, model: Any) -> Any:
    """Four examples of a tiny task, with what the model says to them where they ask."""
    source = tiny.workload(task).sources["train"]["train"]
    batch = source.fetch(np.arange(4), {})
    return source.ask(model, batch, np.random.default_rng) if source.asks else batch


@functools.cache
def losses(task: str, shelf: str | None = None) -> tuple[Any, ...]:
    """Return the losses that can be computed on a tiny task; without a shelf, of a given teacher among them."""
    work = tiny.workload(task)
    batch, found = _batch(task, work.build(0).eval()), []
    taught = [parse(f"Distillation({given!r}, 0.4)") for given in (weights(task) if shelf is None else ())]
    for loss in (*pool("loss", shelf), *taught):
        try:
            loss(work.build(0), batch)
        except Exception:
            continue
        found.append(loss)
    return tuple(found)


@functools.cache
def augments(task: str, shelf: str | None = None) -> tuple[Any, ...]:
    """Return the augmentations that can be made of the batches of a tiny task."""
    batch, found = tiny.workload(task).sources["train"]["train"].fetch(np.arange(4), {}), []
    for augment in pool("augment", shelf):
        try:
            augment.apply(augment.init(), batch, torch.Generator())
        except Exception:
            continue
        found.append(augment)
    return tuple(found)


def draw(rng: random.Random, shelf: str | None = None, budgets: Sequence[str] = BUDGETS) -> Drawn:
    """Draw a regime; what its parts say of one another is left to the declaration to refuse.

    Parameters
    ----------
    rng : random.Random
    shelf : "core" or "atlas", optional
        Components of this shelf only, on plain tasks. Default: of both, on tasks of all kinds.
    budgets : sequence of str
        What the whole may be.

    Raises
    ------
    DeclarationError
        If the parts do not go together.

    Examples
    --------
    >>> found = draw(random.Random(3))
    >>> parse(repr(found.regime)) == found.regime
    True
    """
    count = rng.choice((1, 1, 2, 3))
    mixed = rng.random() < 0.2
    task = rng.choice(tuple(tiny.TASKS if shelf is not None else rng.choice((tiny.TASKS, tiny.SPECIAL))))
    given = [_phase(rng, task, place, count, mixed, shelf) for place in range(count)]
    if count == 1:
        regime = Regime(
            budget=rng.choice(budgets), **{k: v for k, v in given[0].items() if k not in ("name", "budget", "carry")}
        )
    else:
        regime = Regime(phases=[Phase(**fields) for fields in given], budget=rng.choice(budgets))
    for _ in range(rng.choice((0, 0, 1, 2))):
        regime = _varied(rng, regime, shelf)
    probes = tuple(rng.sample(pool("probe", shelf), rng.choice((0, 0, 1, 2))))
    return Drawn(task, regime, probes, rng.randrange(1000))


def _phase(rng: random.Random, task: str, place: int, count: int, mixed: bool, shelf: str | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": f"phase{place}", "optimizer": _optimizer(rng, shelf)}
    fields["batch_size"] = rng.choice((3, 4, 6, 6, 7, *_written(_BATCHES, shelf)))
    if count > 1:
        fields["budget"] = _SHARES[count][place]
        fields["carry"] = ["model", *rng.sample(("optimizer", "average", "cursor", "sampler"), rng.randrange(3))]
    for name, kind in _SLOTS.items():
        if rng.random() < (0.4 if kind == "loss" else 0.25):
            fields[name] = _one(rng, losses(task, shelf) if kind == "loss" else pool(kind, shelf))
    fitting = {"augment": augments, "on_entry": transforms}
    for name, kind in _LISTS.items():
        choices = fitting[name](task, shelf) if name in fitting else pool(kind, shelf)
        if choices and rng.random() < 0.25:
            fields[name] = [_one(rng, choices)]
    if mixed:
        fields["mixture"] = rng.choice(_written(_MIXTURES, shelf))
    if getattr(fields["batch_size"], "needs", ()) == ("micro_batch_gradient_norms",):
        fields["micro_batch"] = 2
    elif rng.random() < 0.3:
        fields["micro_batch"] = rng.choice((1, 2, 3, 5, "auto"))
    if rng.random() < 0.3:
        fields["lag"] = rng.randrange(3)
    if rng.random() < 0.4 or "SkillIt" in repr(fields.get("mixture")):
        fields["evaluate"] = rng.choice(("20%", "4 steps"))
    if rng.random() < 0.1:
        fields["precision"] = "bfloat16"
    if rng.random() < 0.1:
        fields["trainable"] = [rng.choice(("*.weight", "4.*"))]
    return fields


def _one(rng: random.Random, instances: tuple[Any, ...]) -> Any:
    """One of them, every class as likely as any other."""
    chosen = rng.choice(sorted({type(instance).__name__ for instance in instances}))
    return rng.choice([instance for instance in instances if type(instance).__name__ == chosen])


def _written(texts: Sequence[str], shelf: str | None) -> list[Any]:
    """Components as they are written, those of a shelf."""
    made = map(parse, texts)
    return [one for one in made if shelf is None or getattr(one, "card", None) is None or one.card.shelf == shelf]


def _optimizer(rng: random.Random, shelf: str | None) -> Optimizer:
    found = _one(rng, pool("optimizer", shelf))
    if not found.single_evaluation:
        return found
    if rng.random() < 0.2:
        found = parse(f"Groups([Group('*.bias', {PARTS['optimizer']}), Group('*', {found!r})])")
    if rng.random() < 0.2:
        wrappers = ("SAM({!r}, rho=0.05)", "MKOR({!r}, every=2)")
        found = parse(rng.choice(wrappers if shelf is None else wrappers[:1]).format(found))
    return found


def _varied(rng: random.Random, regime: Regime, shelf: str | None) -> Regime:
    """Put a schedule or a controller where a number stands."""
    places = [(path, value) for path, value, _ in paths.knobs(regime) if isinstance(value, int | float) and value > 0]
    if not places:
        return regime
    path, value = rng.choice(places)
    controllers = [one for one in pool("controller", shelf) if not one.all_needs() & _OF_BATCHES]
    whole = rng.choice(pool("schedule", shelf) if rng.random() < 0.7 else controllers)
    return paths.edit(regime, {path: rng.choice((float(value), 0.1 * value)) * whole}, flatten=True)


# -- what must hold --------------------------------------------------------------------------------------------------


def check(drawn: Drawn, rng: random.Random) -> str:
    """Check one drawn regime; return "accepted", "diverged", or the sentence with which it was refused.

    It prints itself back; it runs; stopped after any of three random steps, taken through bytes and gone on with, it
    ends in the same bits; what looks on changes none.

    Raises
    ------
    AssertionError
        If something does not hold.
    RegimesError
        If it is refused only after it was accepted.
    """
    again = parse(repr(drawn.regime))
    if again != drawn.regime or again.hash != drawn.regime.hash:
        raise AssertionError(f"prints itself back as another: {drawn.regime!r}")
    names = ("a", "b") if any(phase.mixture is not None for phase in drawn.regime.phases) else ()
    work = tiny.workload(drawn.task, names)

    def make(probes: tuple[Any, ...] = ()) -> Run:
        return Run(work, parse(repr(drawn.regime)), drawn.seed, probes=probes)

    try:
        whole = make(drawn.probes)
    except DeclarationError as why:
        return str(why)
    except UserCodeError as why:
        return _own_refusal(why)
    try:
        return _resumed(make, whole, rng)
    except UserCodeError as why:
        return _own_refusal(why)


def _own_refusal(why: UserCodeError) -> str:
    """Batch norm's own refusal of a micro-batch of one; anything else is raised."""
    if "more than 1 value per channel" in str(why):
        return str(why)
    raise why


def components(regimes: Iterable[Regime]) -> Counter[str]:
    """Return in how many of these regimes each component stands, by its name."""
    found: Counter[str] = Counter()
    for regime in regimes:
        found.update({type(value).__name__ for _, value in paths.walk(regime) if isinstance(value, Component)})
    return found


def _resumed(make: Any, whole: Run, rng: random.Random) -> str:
    stops = sorted(rng.sample(range(STEPS), 3))
    saved: dict[int, dict[str, Any]] = {}
    for number in range(STEPS):
        if number in stops:
            saved[number] = through_bytes(whole.tree())
        if whole.finished:
            break
        if not _stepped(whole):  # the step that gave up was made, too
            number += 1
            break
    else:
        number = STEPS
    _same(make, saved, number, trees.clone(whole.tree()))
    return "accepted" if whole.frame.skipped_in_a_row < whole.give_up else "diverged"


def _stepped(run: Run) -> bool:
    try:
        run.step()
    except RunFailed:
        return False
    return True


def _same(make: Any, saved: dict[int, dict[str, Any]], steps: int, end: dict[str, Any]) -> None:
    """Go on from every stop to the next, and from the last to the end."""
    stops = [*sorted(saved), steps]
    for begin, until in zip(stops, stops[1:]):
        with elsewhere(begin):
            run = make()
            run.load(saved[begin])
            for _ in range(begin, until):
                if run.finished or not _stepped(run):
                    break
            reached = through_bytes(run.tree()) if until in saved else trees.clone(run.tree())
        differing = trees.differences(saved.get(until, end), reached)
        if differing:
            raise AssertionError(f"from step {begin} to {until} another state comes out at {differing[:6]}")
