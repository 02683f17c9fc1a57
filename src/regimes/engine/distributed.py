"""Several processes as one run: micro-batches are dealt out, and what is summed is summed as one process would."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from regimes.core.errors import DeclarationError, RunFailed
from regimes.engine.arithmetic import Tree


class World:
    """The processes that train one run together, each a copy of the whole run but for the micro-batches it evaluates.

    Weights, states, plans, records and work are the same in all of them, to the bit, and the same as those of one
    process with the same micro-batches.

    Parameters
    ----------
    rank, size : int
        Which process of how many.
    reduce : "tree" or "all_reduce"
        How gradients are added: as one process would, to the bit; or by one all-reduce, as
        `torch.nn.parallel.DistributedDataParallel` does, faster, and equal to rounding.
    """

    def __init__(self, rank: int = 0, size: int = 1, reduce: str = "tree") -> None:
        self.rank, self.size, self._reduce = rank, size, reduce

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Numbers of the micro-batches that this process evaluates: a contiguous run."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of every process, in order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def joined(self, values: list[Any]) -> list[Any]:
        """Return the lists of all processes as one."""
        return values if self.size == 1 else [item for part in self.gathered(values) for item in part]

    def agreed(self, code: int | None) -> int | None:
        """Return the largest code of any process, None where nobody has one."""
        return code if self.size == 1 else max((c for c in self.gathered(code) if c is not None), default=None)

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier()

    def total(self, tree: Tree, like: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
        """Return the sum over all `count` micro-batches, added in the tree in which one process would add them.

        Where two sums that are to be added lie with different processes, the right one travels to the left one.

        Parameters
        ----------
        tree : Tree
            Of this process's micro-batches.
        like : sequence of Tensor
            Of the shapes of the gradients.
        count : int
            Of micro-batches.
        """
        if self.size == 1:
            return tuple(tree.total())
        if self._reduce == "all_reduce":
            return self._all_reduced(tree.total() if tree.nodes else [torch.zeros_like(p) for p in like])
        own = iter(tree.nodes)
        whole: Tree = Tree(add=lambda left, right: self._add(left, right, like))
        for rank in range(self.size):
            for level, place in _nodes(World(rank, self.size).share(count)):
                gradients = next(own)[2] if rank == self.rank else None
                whole.push(level, place, _Held(rank, gradients))
        held = whole.total()
        gradients = [torch.empty_like(p) for p in like] if held.gradients is None else held.gradients
        for flat, pieces in _flat(gradients):
            dist.broadcast(flat, src=held.owner)
            torch._foreach_copy_(pieces, _pieces(flat, pieces))
        return tuple(gradients)

    def _all_reduced(self, gradients: list[Tensor]) -> tuple[Tensor, ...]:
        for flat, pieces in _flat(gradients):
            dist.all_reduce(flat)
            torch._foreach_copy_(pieces, _pieces(flat, pieces))
        return tuple(gradients)

    def _add(self, left: _Held, right: _Held, like: Sequence[Tensor]) -> None:
        if left.owner == right.owner:
            if left.gradients is not None and right.gradients is not None:
                torch._foreach_add_(left.gradients, right.gradients)
        elif right.gradients is not None:
            for flat, _ in _flat(right.gradients):
                dist.send(flat, left.owner)
        elif left.gradients is not None:
            for flat, pieces in _flat(left.gradients):
                dist.recv(flat, right.owner)
                torch._foreach_add_(pieces, _pieces(flat, pieces))


class _Held(NamedTuple):
    """A sum of gradients that lies with one process; None in all others."""

    owner: int
    gradients: list[Tensor] | None


def _nodes(numbers: range) -> Iterator[tuple[int, int]]:
    """(level, place) of the nodes of the tree that cover a contiguous run of micro-batches."""
    tree: Tree = Tree(add=lambda left, right: None)
    for number in numbers:
        tree.push(0, number, None)
    return ((level, place) for level, place, _ in tree.nodes)


def _flat(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Tensors type by type: one flat copy, and those that it holds."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        pieces = [t for t in tensors if t.dtype is dtype]
        yield torch.cat([t.reshape(-1) for t in pieces]), pieces


def _pieces(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    return [part.view_as(t) for part, t in zip(flat.split([t.numel() for t in like]), like)]


def check(run: Any) -> None:
    """Refuse what several processes cannot do as one does.

    Raises
    ------
    DeclarationError
        For fewer micro-batches than processes, micro-batches of no declared size, and running statistics.
    """
    size, plan = run.world.size, run.frame.plans[0]
    if size == 1:
        return
    live = run.phase.substitute(plan.knobs | run.phase.step_knobs.values(run.states["knobs"], run.position))
    if live.micro_batch == "auto":
        raise DeclarationError(f"got 'auto' with {size} processes; allowed: a number", "micro_batch")
    count = len(run.micro_batches(len(plan), live.micro_batch))
    if count < size:
        raise DeclarationError(
            f"got {live.micro_batch}, {count} micro-batch{'es' * (count > 1)} of a batch of {len(plan)}; allowed: one or more "
            f"for each of the {size} processes, for example micro_batch={max(len(plan) // size, 1)}",
            "micro_batch",
        )
    refuse_statistics(run)


def check_same(world: World, identity: Mapping[str, Any]) -> None:
    """Refuse processes that would not train the same: other data, other versions, other initial weights.

    Raises
    ------
    RunFailed
        Naming what differs.
    """
    for rank, other in enumerate(world.gathered(dict(identity))):
        differing = [name for name in identity if other.get(name) != identity[name]]
        if differing:
            raise RunFailed(
                f"process {world.rank} and process {rank} would not train the same: they differ in {', '.join(differing)}"
            )


def refuse_statistics(run: Any) -> None:
    """Refuse buffers that every micro-batch changes in turn: no process sees the others' micro-batches."""
    if run.world.size > 1 and run.buffers.watched:
        raise DeclarationError(
            f"got a model whose forward changes '{next(iter(run.buffers.watched))}', one micro-batch after another, and "
            f"{run.world.size} processes that see different ones; allowed: one process, or a norm without running statistics",
            "model",
        )


def join(reduce: str = "tree") -> World:
    """Return the processes that were started together by ``torchrun``; this one alone elsewhere.

    Raises
    ------
    DeclarationError
        If torch was built without its distributed package.
    """
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), reduce)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "MASTER_ADDR" not in os.environ:
        return World()
    if not dist.is_available():
        raise DeclarationError(
            f"got {size} processes, but this torch was built without torch.distributed", "WORLD_SIZE"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cuda:nccl,cpu:gloo" if torch.cuda.is_available() else "gloo")
    return World(dist.get_rank(), size, reduce)
