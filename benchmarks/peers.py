"""Lightning's Trainer and Fabric on the tensors, the model, the optimizer and the schedule of the loop by hand.

A Trainer owns its loop: it runs in a thread that goes on only while its block is measured.
"""

from __future__ import annotations

import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from by_hand import cosine
from lightning.fabric import Fabric
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional


class Batches:
    """Endless batches of tensors by a permutation drawn once per epoch."""

    def __init__(self, inputs: Tensor, targets: Tensor, batch: int) -> None:
        self.inputs, self.targets, self.batch = inputs, targets, batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        while True:
            order = torch.randperm(len(self.inputs), generator=generator)
            for place in range(0, len(order) - self.batch + 1, self.batch):
                rows = order[place : place + self.batch]
                yield self.inputs.index_select(0, rows), self.targets.index_select(0, rows)


def token_cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    """Mean over all tokens."""
    return functional.cross_entropy(out.view(-1, out.shape[-1]), y.view(-1))


def optimizer_and_schedule(model: nn.Module, steps: int, peak: float) -> tuple[Any, Any]:
    """Fused AdamW and the schedule by hand, as torch's scheduler."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.01, fused=True)
    share = functools.partial(cosine, steps=steps, peak=1.0, warmup=steps // 20)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


class Module(LightningModule):
    """A model as the Trainer wants it."""

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], steps: int, peak: float) -> None:
        super().__init__()
        self.model, self.loss, self.steps, self.peak = model, loss, steps, peak

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Return the loss, and log it where there is a logger."""
        loss = self.loss(self.model(batch[0]), batch[1])
        if self.trainer.logger is not None:
            self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, Any]:
        """The scheduler goes on every step."""
        optimizer, scheduler = optimizer_and_schedule(self.model, self.steps, self.peak)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class InBlocks(Callback):
    """Runs a Trainer in a thread, `advance(n)` steps at a time.

    Parameters
    ----------
    fit : callable
        ``fit(callback)`` trains until the callback asks to stop.
    threads : int
        Torch's threads, which are a setting of each thread.
    """

    def __init__(self, fit: Callable[[Callback], None], threads: int) -> None:
        self._fit, self._threads, self._left, self._closing = fit, threads, 0, False
        self._failure: BaseException | None = None
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def _train(self) -> None:
        torch.set_num_threads(self._threads)
        self._go.acquire()
        try:
            if not self._closing:
                self._fit(self)
        except BaseException as why:
            self._failure = why
        finally:
            self._done.release()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Read the loss, as the other contenders do; wait at the end of a block."""
        outputs["loss"].item()
        self._left -= 1
        if self._left == 0:
            self._done.release()
            self._go.acquire()
            trainer.should_stop = self._closing

    def advance(self, steps: int) -> None:
        """Train that many steps."""
        self._left = steps
        self._go.release()
        self._done.acquire()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop the Trainer."""
        self._closing = True
        self._go.release()
        self._thread.join()


def with_fabric(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], batches: Batches, steps: int, peak: float
) -> Iterator[float]:
    """A loop by hand on Fabric, yielding the loss of every step."""
    fabric = Fabric(accelerator="cpu", devices=1)
    optimizer, scheduler = optimizer_and_schedule(model, steps, peak)
    model, optimizer = fabric.setup(model, optimizer)
    for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(x), y)
        fabric.backward(value)
        optimizer.step()
        scheduler.step()
        yield value.item()


def contenders(
    build: Callable[[], nn.Module], inputs: Tensor, targets: Tensor, facts: dict[str, Any], steps: int, folder: Path
) -> tuple[dict[str, InBlocks], dict[str, Iterator[float]]]:
    """Return Trainers and loops by name.

    Parameters
    ----------
    build : callable
        Returns the model with its first weights.
    facts : dict
        Of the workload: batch, tokens, peak.
    steps : int
        Length of the schedule.
    folder : Path
        For logs.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    loss = token_cross_entropy if facts["tokens"] else functional.cross_entropy
    batches = Batches(inputs, targets, facts["batch"])

    def trainer(**options: Any) -> InBlocks:
        def fit(blocks: Callback) -> None:
            made = Trainer(accelerator="cpu", devices=1, max_epochs=-1, callbacks=[blocks], **options)
            made.fit(Module(build(), loss, steps, facts["peak"]), batches)

        return InBlocks(fit, torch.get_num_threads())

    logging_trainer = trainer(
        logger=CSVLogger(folder / "csv", flush_logs_every_n_steps=64), log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainers = {
        "Lightning Trainer, barebones": trainer(barebones=True),
        "Lightning Trainer, CSV logger": logging_trainer,
    }
    return trainers, {"Lightning Fabric": with_fabric(build(), loss, batches, steps, facts["peak"])}
