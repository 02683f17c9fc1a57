"""The loop over the steps of a phase in a script, and the counters that its knobs read."""

from __future__ import annotations

from typing import Any

from regimes.ejection.text import Lines


def loop(own: Any, text: Lines, inside: list[str], after: list[str]) -> None:
    """Write the loop around the lines of a step.

    Where the number of steps is known and each consumes as much as the others, it is a `for`; else a `while` over
    what the phase has consumed.

    Parameters
    ----------
    own : PhaseText
    text : Lines
    inside : list of str
        Draw, evaluate, update.
    after : list of str
        What looks on.
    """
    counted = _counts(own)
    if _in_range(own):
        begin, steps = own.facts.begin.step, own.facts.steps or _limit(own)
        if counted:
            text.add(*[f"{name} = 0" for name in counted])
        head = f"for step in range({begin}, {begin + steps}):" if begin else f"for step in range({steps}):"
    else:
        unit = own.facts.phase.length.unit
        text.add(f"step = {own.facts.begin.step}", *[f"{name} = 0" for name in counted])
        head = f"while {unit} < {_limit(own)}:"
    with text.block(head):
        _positions(own, text)
        text.add(*inside)
        if "before" in own.clocks and own.facts.phase.length.unit != "steps":
            text.add(f"before = {own.facts.phase.length.unit}")
        text.add(*[f"{name} += {_amount(own, name)}" for name in counted if "before" in own.clocks])
        text.add(*after)
        text.add(*[f"{name} += {_amount(own, name)}" for name in counted if "before" not in own.clocks])
        text.add(f"yield step, {own.loss()}")
        if not _in_range(own):
            text.add("step += 1")


def _in_range(own: Any) -> bool:
    facts, unit = own.facts, own.facts.phase.length.unit
    if unit == "steps":
        return True
    return facts.even and (unit == "samples" or facts.tokens_each() is not None)


def _counts(own: Any) -> list[str]:
    """The counters that are kept."""
    wanted = {name for name in ("samples", "tokens") if name in own.clocks}
    unit = own.facts.phase.length.unit
    if not _in_range(own):
        wanted.add(unit)
    return sorted(wanted - {"steps"})


def _limit(own: Any) -> int:
    """The least whole amount at which the phase is over."""
    total = own.facts.phase.length.total * (1.0 - 1e-12)
    whole = int(total)
    return whole if whole >= total else whole + 1


def _amount(own: Any, name: str) -> str:
    """What a step adds to a counter."""
    if name == "samples":
        return f"len({own.data.name})"
    each = own.facts.tokens_each()
    if each is not None:
        return f"len({own.data.name})" + (f" * {each}" if each != 1 else "")
    return own.evaluation.tokens()


def _positions(own: Any, text: Lines) -> None:
    """What is done of the phase, and of the run, where a knob reads it."""
    length, facts = own.facts.phase.length, own.facts
    if "done" in own.clocks:
        text.add(f"done = {_consumed(own)} / {_plain(length.total)}")
    if "run_done" in own.clocks:
        totals = facts.run._totals
        before, whole = totals[facts.phase.index], totals[-1]
        inner = f"done * {_plain(length.total)}"
        text.add(
            f"run_done = ({_plain(before)} + {inner}) / {_plain(whole)}"
            if before
            else f"run_done = {inner} / {_plain(whole)}"
        )


def _consumed(own: Any) -> str:
    facts, unit = own.facts, own.facts.phase.length.unit
    begin = facts.begin.step
    if not _in_range(own) or (unit != "steps" and unit in _counts(own)):
        return unit if unit != "steps" else "step"
    local = f"(step - {begin})" if begin else "step"
    if unit == "steps":
        return local
    each = facts.sizes[0] * (facts.tokens_each() if unit == "tokens" else 1)
    return f"{local} * {each}" if each != 1 else local


def _plain(number: float) -> str:
    """A whole number without a point: divided by, it gives the same."""
    return str(int(number)) if float(number).is_integer() else repr(number)
