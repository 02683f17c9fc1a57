"""ZO2: MeZO whose blocks are moved when their turn comes, so that they may lie elsewhere in between."""

from __future__ import annotations

import fnmatch
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, UserCodeError, nearest_pattern
from regimes.core.kinds import State
from regimes.core.registry import register
from regimes.optimizers.zeroth_order.mezo import MeZO, pieces


@register
class ZO2(MeZO):
    r"""MeZO to the bit, with what it does to a block put off until the block runs.

    A step of MeZO moves every weight four times around its two forwards, and once when the slope is known. Here each block
    is moved just before it runs: in the first forward it first makes up for what the last step left (back from the second
    forward's place, decay, the update), in the second it goes from one side to the other. A block is so visited twice a step
    instead of five times, and only its own weights are touched on the way. Noise is drawn again from where it began for the
    block. What is put off is written before anybody reads the weights: before validation, averaging and checkpoints, at the
    end of a phase, and after each step that somebody looks at.

    By itself this saves no memory: `regimes.offload` lets the blocks lie in host memory or in a file.

    Parameters
    ----------
    lr : knob
        As of `MeZO`.
    eps : knob
        As of `MeZO`.
    weight_decay : knob
        As of `MeZO`.
    blocks : tuple of str
        Patterns of the names of modules, of which the outermost that match are the blocks. All other weights stay where they
        are and are moved at once.

    Raises
    ------
    DeclarationError
        On meeting a model, if a pattern matches no module with weights that are trained.
    UserCodeError
        In the first step, if the model reads a block's weights without calling the block.

    References
    ----------
    L. Wang et al., ZO2: Scalable Zeroth-Order Fine-Tuning for Extremely Large Language Models with Limited GPU Memory,
    2025, arXiv:2503.12668.

    Examples
    --------
    >>> ZO2(lr=1e-4, blocks=["blocks.*"])
    ZO2(lr=0.0001, blocks=['blocks.*'])
    """

    blocks: tuple[str, ...] = fixed(kw_only=True)

    puts_off = True
    card = Card(
        title="Zeroth-order fine-tuning of a model whose blocks lie elsewhere",
        axes=("order",),
        source="Wang et al. 2025, arXiv:2503.12668; its code",
        when="A model whose weights do not fit beside each other where it is computed.",
        cost="two forwards, no backward; noise drawn four times instead of five; every block visited twice",
        shelf="atlas",
        rows=("zo2-mezo-offload",),
        defaults={"eps": "1e-3, MeZO's", "lr": "1e-6, MeZO's"},
        deviations=(
            "The two forwards follow each other, so that a block is fetched twice a step; the paper makes both as a block lies "
            "there, and fetches it once.",
            "Fetching does not overlap with computing, and there is no other precision elsewhere.",
            "The first step makes one forward more, to see that blocks are read only when they are called.",
            "What is put off is written after every step where somebody may look, so with probes, trials or `stream`.",
            "On a CUDA device it has not been run.",
        ),
        claims=(
            Claim(
                "After 5,000 steps a linear head on frozen random features, at the best of three rates, is right more often than "
                "80% of the time, by two points.",
                {"seeds": 5, "margin": 0.02, "scale": "digits, 256 random features, 2,560 weights, 5,000 steps"},
                paper_scale="OPT-175B on language tasks",
                measure="regimes.claims.zeroth_order:head",
            ),
        ),
    )

    @classmethod
    def example(cls) -> ZO2:
        """One whose blocks are the modules of a chain."""
        return cls(lr=1e-3, blocks=("[0-9]",))

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing put off, and nothing checked."""
        for place, pattern in enumerate(self.blocks):
            if not any(fnmatch.fnmatchcase(prefix, pattern) for name in parameters for prefix in _prefixes(name)):
                modules = dict.fromkeys(prefix for name in parameters for prefix in _prefixes(name))
                raise DeclarationError(
                    f"got '{pattern}', which matches no module with weights that are trained; "
                    f"{nearest_pattern(pattern, list(modules))}",
                    f"blocks.{place}",
                )
        return {"late": {}, "checked": False}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Two forwards at theta +- eps z, each block moved as it runs; the step along z is left to the next."""
        late = Late(_stretches(parameters, self.blocks), state["late"], evaluate.rng("mezo"))
        with evaluate.moved(late.move, self.eps):
            plus = evaluate(grad=False, training=False, before=late.writers())
            if not state["checked"]:
                _check(late, plus.loss, evaluate)
                state["checked"] = True
        with evaluate.moved(late.move, -self.eps):
            minus = evaluate(grad=False, training=False, before=late.writers())
        projected = (plus.loss - minus.loss) / (2.0 * self.eps)
        evaluate.log("projected_gradient", projected)
        late.note("scale", 1.0 - self.lr * self.weight_decay)
        late.note("add", -self.lr * projected)
        return state

    def flush(self, state: State, parameters: Mapping[str, Tensor]) -> State:
        """Move every block to where it should be."""
        for name, tensors in _stretches(parameters, self.blocks):
            write(tensors, state["late"].pop(name, []))
        return state


class Late:
    """The moves of one step: of blocks noted until they are asked for, of all other weights made at once.

    Parameters
    ----------
    stretches : list of (str, list of Tensor)
        Weights in parameter order, with the name of their block; "" where they are in none.
    late : dict of str to list
        By block, what was noted and not yet made: a list of ``{"device", "noise", "moves"}``, where ``moves`` are pairs
        ("add", scale of the noise) and ("scale", factor). It is changed in place.
    generator : torch.Generator
        At the start of the step's noise.
    """

    def __init__(
        self, stretches: list[tuple[str, list[Tensor]]], late: dict[str, list[Any]], generator: torch.Generator
    ) -> None:
        self._stretches, self._late = stretches, late
        self._noise = []
        for _, tensors in stretches:
            self._noise.append({"device": str(generator.device), "noise": generator.get_state()})
            for p in tensors:
                for piece in pieces(p):
                    torch.randn(piece.shape, generator=generator, dtype=piece.dtype, device=generator.device)

    def note(self, kind: str, number: float) -> None:
        """Note a move of all weights; those in no block are moved now."""
        for (name, tensors), noise in zip(self._stretches, self._noise):
            if not name:
                write(tensors, [noise | {"moves": [[kind, number]]}])
                continue
            queue = self._late.setdefault(name, [])
            if not queue or queue[-1]["noise"] is not noise["noise"]:
                queue.append(noise | {"moves": []})
            queue[-1]["moves"].append([kind, number])

    def move(self, scale: float) -> None:
        """Add scale * z, sooner or later."""
        self.note("add", scale)

    def writers(self) -> dict[str, Any]:
        """By block, what makes all of its moves that are noted."""
        return {name: functools.partial(self.write, name, tensors) for name, tensors in self._stretches if name}

    def write(self, name: str, tensors: Sequence[Tensor]) -> None:
        """Make the moves of a block that are noted."""
        write(tensors, self._late.pop(name, []))


@torch.no_grad()
def write(tensors: Sequence[Tensor], queue: Sequence[Mapping[str, Any]]) -> None:
    """Make moves in the order in which they were noted, a piece of a tensor at a time: bit for bit as one after the other."""
    for noted in queue:
        generator = torch.Generator(noted["device"])
        generator.set_state(noted["noise"])
        for p in tensors:
            there = p.detach().to(generator.device)  # the tensor itself, unless it lies elsewhere
            for piece in pieces(there):
                z = torch.randn(piece.shape, generator=generator, dtype=piece.dtype, device=piece.device)
                for kind, number in noted["moves"]:
                    if kind == "add":
                        piece.add_(z, alpha=number)
                    else:
                        piece.mul_(number)
            if there.device != p.device:
                p.copy_(there)


def _check(late: Late, found: float, evaluate: Any) -> None:
    """Make all moves, and see that the same forward has the same loss."""
    for call in late.writers().values():
        call()
    whole = evaluate(grad=False, training=False).loss
    if whole != found:
        raise UserCodeError(
            f"the loss is {found!r} where blocks are moved as they are called, and {whole!r} where they have been moved before: "
            "the model reads weights of a block without calling it; name other modules in `blocks`"
        )


def _stretches(parameters: Mapping[str, Tensor], patterns: Sequence[str]) -> list[tuple[str, list[Tensor]]]:
    """Neighbors in parameter order that are of one block, or of none (""), with the block's name."""
    placed = [(_block(name, patterns), p) for name, p in parameters.items()]
    return [(block, [p for _, p in run]) for block, run in itertools.groupby(placed, key=lambda pair: pair[0])]


def _block(name: str, patterns: Sequence[str]) -> str:
    """The outermost module around a parameter whose name matches; "" where none does."""
    fits = (prefix for prefix in _prefixes(name) if any(fnmatch.fnmatchcase(prefix, p) for p in patterns))
    return next(fits, "")


def _prefixes(name: str) -> Iterator[str]:
    """Names of the modules around a parameter, from the outermost."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))
