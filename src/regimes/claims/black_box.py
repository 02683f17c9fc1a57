"""A classifier of digits that can only be asked, made to stand noise: by what is trained in front of it, and how."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn

import regimes as rg
from regimes.claims.training import measured, trained
from regimes.core.randomness import seed32
from regimes.engine.metrics import Accuracy
from regimes.losses import CrossEntropy
from regimes.workloads import models, tables

#: Noise of the pixels, which lie in [0, 1]; numbers that the encoder keeps of 64; queries of an example and step.
_SIGMA, _LATENT, _QUERIES = 0.5, 8, 16
#: The rates that each way tries.
_RATES = (3e-4, 1e-3, 3e-3)


def latent_or_pixels(seed: int) -> tuple[float, float]:
    """Noisy test accuracy of what is trained by coordinates of the latent, and by random directions of pixels.

    Parameters
    ----------
    seed : int
        Of initial weights, data order, noise and directions.
    """
    found = _Parts(seed)
    return found.best(_through_latent), found.best(_through_pixels)


def latent_or_gradient(seed: int) -> tuple[float, float]:
    """Noisy test accuracy of what is trained by coordinates of the latent, and by the true gradient.

    Parameters
    ----------
    seed : int
        As there.
    """
    found = _Parts(seed)
    return found.best(_through_latent), found.best(_by_gradient)


class _Noise(nn.Module):
    """Gaussian noise on the pixels; in validation it is that of the batch's address."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) + _SIGMA * torch.randn_like(x.flatten(1))


class _Parts:
    """What every way begins with: the classifier, and a denoiser, an encoder and a decoder that reconstruct."""

    def __init__(self, seed: int) -> None:
        self.seed, table = seed, tables.digits()
        flat: Any = {name: getattr(table, name).x.flatten(1) for name in ("train", "val", "test")}
        labels: Any = {name: getattr(table, name).y for name in flat}
        self.classifier = self._fit(lambda: models.MLP((64, 64, 10)), {n: (flat[n], labels[n]) for n in flat}, 20)
        same = {name: (x, x) for name, x in flat.items()}
        self.denoiser = self._fit(lambda: nn.Sequential(_Noise(), models.MLP((64, 128, 64))), same, 20, mse=True)[1]
        chain = self._fit(
            lambda: nn.Sequential(models.MLP((64, 64, _LATENT)), models.MLP((_LATENT, 64, 64))), same, 20, mse=True
        )
        self.encoder, self.decoder = chain
        with torch.no_grad():  # what the classifier says of clean digits is what it has to say of noisy ones
            said = self.classifier(flat["train"]).argmax(1)
        self.data: dict[str, Any] = {n: (flat[n], said if n == "train" else labels[n]) for n in flat}

    def _fit(self, model: Any, data: Any, epochs: int, mse: bool = False) -> Any:
        loss: Any = nn.MSELoss() if mse else CrossEntropy()
        work = rg.Workload(model=model, loss=loss, **data)
        regime = rg.Regime(optimizer=rg.AdamW(lr=3e-3, weight_decay=0.0), batch_size=64, budget=f"{epochs} epochs")
        return trained(work, regime, self.seed).model.eval().requires_grad_(False)

    def best(self, way: Any) -> float:
        """Test accuracy of the way that is most often right on noisy validation data, of three rates."""
        runs = [self._tuned(way, rate) for rate in _RATES]
        return measured(max(runs, key=lambda run: measured(run, split="val")))

    def _tuned(self, way: Any, rate: float) -> rg.Run:
        work = rg.Workload(
            model=functools.partial(way, self), loss=CrossEntropy(), metrics={"acc": Accuracy()}, **self.data
        )
        rule = rg.AdamW(lr=rate, weight_decay=0.0)
        return trained(work, rg.Regime(optimizer=rule, batch_size=64, budget="300 steps"), seed32(self.seed, "tuned"))


def _copied(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).requires_grad_(True)


def _through_latent(parts: _Parts) -> nn.Module:
    def query(z: Tensor) -> Tensor:
        found: Tensor = parts.classifier(parts.decoder(z))
        return found

    estimator = rg.CoordinateDifferences(central=True)
    return nn.Sequential(_Noise(), _copied(parts.denoiser), _copied(parts.encoder), rg.BlackBox(query, estimator))


def _through_pixels(parts: _Parts) -> nn.Module:
    estimator = rg.RandomDirections(_QUERIES)
    return nn.Sequential(_Noise(), _copied(parts.denoiser), rg.BlackBox(parts.classifier, estimator))


def _by_gradient(parts: _Parts) -> nn.Module:
    behind = copy.deepcopy(parts.decoder), copy.deepcopy(parts.classifier)
    return nn.Sequential(_Noise(), _copied(parts.denoiser), _copied(parts.encoder), *behind)
