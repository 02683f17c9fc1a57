"""Sentences about what went wrong: in the user's model, in a layer, in a declaration that interacts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, UserCodeError
from regimes.core.notice import notice
from regimes.core.randomness import kept, own_generator


def in_user_code(run: Any, why: Exception, number: int) -> UserCodeError:
    """One line on top of the user's own traceback: where, which step, which examples."""
    frame = run.frame
    compiler = type(why).__module__.startswith(("torch._dynamo", "torch._inductor"))
    hint = "; it is torch.compile that fails: leave compile=True out" if compiler else ""
    hint += "".join(f"; {note}" for note in getattr(why, "__notes__", ()))
    return UserCodeError(
        f"the model or loss failed at step {frame.step} of phase '{run.phase.name}', micro-batch {number}, seed "
        f"{run.seed}: {type(why).__name__}: {why}{hint}"
    )


def say_own_generator(model: nn.Module) -> None:
    """Say that a model's own generator is beyond what a resume can promise."""
    for name, module in model.named_modules():
        found = own_generator(module)
        if found is not None:
            notice(
                f"model: on a resume the numbers that module '{name}' draws from a generator of its own ({found}) are "
                "not the same; torch's, numpy's and Python's global generators are set anew for every forward: draw "
                "from those."
            )


def first_bad_layer(run: Any, live: Any, batch: Any, number: int) -> str | None:
    """Repeat the forward with a hook on every module; name the first whose output is not finite."""
    found: list[str] = []

    def hook(name: str) -> Any:
        def check(module: nn.Module, args: Any, out: Any) -> None:
            if not found and isinstance(out, Tensor) and out.is_floating_point() and not torch.isfinite(out).all():
                found.append(name)

        return check

    handles = [m.register_forward_hook(hook(name)) for name, m in run.model.named_modules() if name]
    try:
        run.forward(live, batch, number, False)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def refuse_scalar(live: Any, units: int, examples: int) -> None:
    """Refuse a loss that gives fewer units than examples where somebody asks for those of each example."""
    who = live.selector if live.selector is not None else getattr(live, live.data_slot)
    number = "one number" if units == 1 else f"{units} numbers"
    raise DeclarationError(
        f"gave {number} for {examples} examples, but {who!r} needs the loss of each; return per-example losses", "loss"
    )


def refuse_uncounted(run: Any, units: int, examples: int) -> None:
    """Refuse a budget in tokens where the loss gives fewer units than examples: nobody knows how many tokens it saw."""
    length = run.phase.length
    if length.unit == "tokens":
        raise DeclarationError(
            f"got '{length.budget}', but the loss gives {units} number{'s' * (units != 1)} for {examples} examples, so that "
            "tokens cannot be counted; give the budget in steps, samples or epochs",
            "budget",
        )


def refuse_randomness(run: Any) -> None:
    """Refuse ``micro_batch="auto"`` where the forward really draws random numbers, whatever module does it.

    Raises
    ------
    DeclarationError
        If a generator has moved after one forward of two examples.
    """
    plan, device = run.frame.plans[0].part(0, 2), run.workload.device
    live = run.phase.substitute(plan.knobs | run.phase.step_knobs.values(run.states["knobs"], run.position))
    batch = run.read(plan, run.streams)
    with kept():
        run.forward.step = plan.step
        with run.buffers.aside():
            run.forward(live, batch, 0, False)
        # The forward begins by addressing the generators: where it drew nothing they still stand there.
        after = _generators(device)
        run.forward.address(0)
        moved = any(not torch.equal(a, b) for a, b in zip(after, _generators(device)))
    if moved or run.forward.draws:
        raise DeclarationError(
            "got 'auto', but the forward draws random numbers, which are drawn per micro-batch; give a number",
            "micro_batch",
        )


def _generators(device: torch.device) -> list[Tensor]:
    states = [torch.default_generator.get_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def check_selection(selector: Any, chosen: Any, values: Tensor) -> None:
    """Refuse a selection that is not one finite weight >= 0 per unit, some of them above 0."""
    if not isinstance(chosen, Tensor) or chosen.shape != values.shape:
        got = tuple(chosen.shape) if isinstance(chosen, Tensor) else type(chosen).__name__
        raise UserCodeError(f"{selector!r} gave {got} for {len(values)} units; allowed: one weight per unit")
    if not bool(torch.isfinite(chosen).all()) or bool((chosen < 0).any()) or not bool((chosen > 0).any()):
        raise UserCodeError(f"{selector!r} gave weights that are negative, not finite or all 0")


def refuse_interaction(run: Any) -> None:
    """Refuse ``micro_batch="auto"`` where examples of a micro-batch interact.

    Raises
    ------
    DeclarationError
        If the forward draws random numbers, the model keeps batch statistics, or the loss is not separable.
    """
    key = "micro_batch"
    if not run.loss.separable:
        raise DeclarationError(
            f"got 'auto', but {run.loss!r} is not separable (its value depends on the grouping); give a number",
            key,
        )
    for name, module in run.model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and not isinstance(
            module, nn.modules.instancenorm._InstanceNorm
        ):
            raise DeclarationError(
                f"got 'auto', but module '{name}' keeps batch statistics; give a number",
                key,
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise DeclarationError(
                f"got 'auto', but module '{name}' is dropout, whose masks are drawn per micro-batch; give a number",
                key,
            )
