"""What no script can be written for: said with its key, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from regimes.averagers import EMA, LAWA, SWA
from regimes.controllers import NoiseScaleGrowth, Plateau
from regimes.core.algebra import ControlledPair
from regimes.core.component import observes, proposes
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Controller
from regimes.ejection.data import inside
from regimes.engine.compile import CompiledPhase
from regimes.engine.run import Run
from regimes.grad_transforms import ClipNorm, ClipValue, Noise
from regimes.model_transforms import Freeze, Reinitialise, StartFrom, Unfreeze
from regimes.optimizers import SAM, Groups, MeZO
from regimes.optimizers.asked import asks
from regimes.optimizers.foreign.rule import Foreign
from regimes.optimizers.tensorwise.rule import Tensorwise
from regimes.selectors import HighLoss

#: What a phase may carry into a script's next function.
CARRIED = ("model", "averaged", "optimizer", "average", "cursor", "sampler")
_SLOTS: dict[str, tuple[type, ...]] = {
    "selector": (HighLoss,),
    "average": (EMA, LAWA, SWA),
    "grad_transforms": (ClipNorm, ClipValue, Noise),
    "on_entry": (Freeze, Unfreeze, Reinitialise, StartFrom),
}


def refuse(run: Run) -> None:
    """Refuse a run that no script can repeat.

    Raises
    ------
    DeclarationError
        Naming the key, and what is allowed in a script.
    """
    for split, sources in run.workload.sources.items():
        for name, source in sources.items():
            if source.asks or not source.random_access:
                raise DeclarationError(
                    f"the data '{name}' are asked of the model, or read in their own order only; allowed in a script: "
                    "examples by number",
                    split,
                )
    if run.workload.device.type != "cpu":
        raise DeclarationError(f"got '{run.workload.device}'; allowed in a script so far: 'cpu'", "device")
    for phase in run.phases:
        lead = "" if len(run.phases) == 1 else f"{phase.name}."
        for key, message in _problems(run, phase):
            raise DeclarationError(f"{message}", f"{lead}{key}")


def _problems(run: Run, phase: CompiledPhase) -> Iterator[tuple[str, str]]:
    declared = phase.declaration
    if declared.compile:
        yield "compile", "got True; allowed in a script: False, and torch.compile(model) written into it by hand"
    if phase.length.unit == "flops":
        yield "budget", f"got '{phase.length.budget}'; allowed in a script: steps, samples, tokens or epochs"
    for slot, classes in _SLOTS.items():
        held = getattr(declared, slot)
        for part in held if isinstance(held, tuple) else [held]:
            if part is not None and type(part) not in classes:
                yield slot, _got(part, classes)
    for path, controller in phase.controllers.items():
        for leaf in _leaves(controller):
            if type(leaf) not in (Plateau, NoiseScaleGrowth) or proposes(leaf):
                yield path, _got(leaf, (Plateau, NoiseScaleGrowth))
    for path in declared.carry:
        if path not in CARRIED:
            yield "carry", f"got '{path}'; allowed in a script: {', '.join(CARRIED)}"
    yield from _loss_problems(run, phase)
    yield from _rule_problems(declared.optimizer, "optimizer")
    yield from _data_problems(phase)


def _leaves(controller: Any) -> Iterator[Controller]:
    if isinstance(controller, ControlledPair):
        for side in (controller.left, controller.right):
            if isinstance(side, Controller):
                yield from _leaves(side)
    else:
        yield controller


def _loss_problems(run: Run, phase: CompiledPhase) -> Iterator[tuple[str, str]]:
    loss = phase.declaration.loss if phase.declaration.loss is not None else run.workload.loss
    parts: list[tuple[str, Any]] = [("loss", loss)]
    parts += [(f"augment.{place}", augment) for place, augment in enumerate(phase.declaration.augment)]
    for key, part in parts:
        if part.init() or observes(part):
            yield key, f"got {part!r}, which keeps a state of its own; allowed in a script: one that keeps none"


def _rule_problems(rule: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(rule, Groups):
        for place, group in enumerate(rule.groups):
            yield from _rule_problems(group.rule, f"{key}.groups.{place}.rule")
    elif isinstance(rule, SAM):
        yield from _rule_problems(rule.base, f"{key}.base")
        if isinstance(rule.base, SAM | MeZO):
            yield f"{key}.base", f"got {type(rule.base).__name__}; allowed in a script: a rule that evaluates once"
    elif not isinstance(rule, Tensorwise | Foreign | MeZO) or asks(rule):
        yield (
            key,
            (
                f"got {type(rule).__name__}, which asks for more than gradients; allowed in a script: rules that update each "
                "tensor by itself, SAM, MeZO, Groups, and classes of torch.optim and pytorch_optimizer"
            ),
        )


def _data_problems(phase: CompiledPhase) -> Iterator[tuple[str, str]]:
    declared = phase.declaration
    sampler = getattr(declared, declared.data_slot)
    if proposes(inside(sampler)) or sampler.all_needs() - {"units"}:
        yield declared.data_slot, f"got {sampler!r}; allowed in a script: samplers that learn from losses alone, or not"
    if declared.selector is not None and type(sampler).self_normalised:
        yield "selector", "got one beside a sampler whose weights divide; allowed in a script: one of the two"


def _got(part: Any, classes: tuple[type, ...]) -> str:
    return f"got {type(part).__name__}; allowed in a script: {', '.join(cls.__name__ for cls in classes)}"
