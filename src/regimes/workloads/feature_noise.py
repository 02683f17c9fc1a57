"""Patches of a weak feature, a strong one and noise, and a two-layer network of squared ReLUs that reads them."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.engine.workload import Workload
from regimes.losses import MSE
from regimes.workloads.synthetic import philox
from regimes.workloads.tables import Split


class PatchCNN(nn.Module):
    r"""Filters that all patches share, squared ReLUs, and a second layer that is fixed.

    With filters w_{+,r} and w_{-,r}, r = 1 ... m, and patches x_p

    .. math:: f(x) = \frac1m \sum_{r=1}^{m} \sum_p \max(w_{+,r} \cdot x_p, 0)^2 - \max(w_{-,r} \cdot x_p, 0)^2

    Parameters
    ----------
    inputs : int
        Numbers in a patch.
    filters : int
        m, of each sign.
    std : float
        Of the filters' normal initialization.

    Notes
    -----
    ``positive.weight`` and ``negative.weight``, shape (m, inputs) each.

    Examples
    --------
    >>> net = PatchCNN(2, filters=1)
    >>> _ = net.load_state_dict({"positive.weight": torch.tensor([[1.0, 0.0]]), "negative.weight": torch.tensor([[0.0, 2.0]])})
    >>> net(torch.tensor([[[3.0, 0.0], [0.0, 1.0]]])).tolist()
    [[5.0]]
    """

    def __init__(self, inputs: int, filters: int = 10, std: float = 0.02) -> None:
        super().__init__()
        self.positive = nn.Linear(inputs, filters, bias=False)
        self.negative = nn.Linear(inputs, filters, bias=False)
        for layer in (self.positive, self.negative):
            nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches ``[batch, patches, inputs]`` to ``[batch, 1]``."""
        up, down = (functional.relu(layer(x)).square().sum(1).mean(1) for layer in (self.positive, self.negative))
        return (up - down)[:, None]


def features(inputs: int = 40, weak: float = 0.6, strong: float = 1.8) -> tuple[Tensor, Tensor]:
    """Return the weak feature u and the strong one v, along the first axis and the second.

    Parameters
    ----------
    inputs : int
        Numbers in a patch, at least 3: noise needs a direction that no feature has.
    weak, strong : float
        Their norms.

    Raises
    ------
    ValueError
        For fewer inputs.

    Examples
    --------
    >>> [feature.tolist() for feature in features(3)]
    [[0.6000000238418579, 0.0, 0.0], [0.0, 1.7999999523162842, 0.0]]
    """
    if type(inputs) is not int or inputs < 3:
        raise ValueError(f"inputs: got {inputs!r}; allowed is a whole number of at least 3.")
    axes = torch.eye(inputs)
    return weak * axes[0], strong * axes[1]


def draw_patches(
    examples: int,
    share: float,
    draw: np.random.Generator,
    inputs: int = 40,
    weak: float = 0.6,
    strong: float = 1.8,
    noise: float = 0.15,
) -> Split:
    """Draw points of three patches: the weak feature times the label, the strong one times the label or noise, and noise.

    Parameters
    ----------
    examples : int
    share : float
        Of the points that have the strong feature, in [0, 1]; their number is rounded, and they come in random order.
    draw : numpy Generator
    inputs, weak, strong
        As of `features`.
    noise : float
        Standard deviation of the noise along each axis that no feature has; along theirs it is 0.

    Returns
    -------
    Split
        ``x`` float32 ``[examples, 3, inputs]``; ``y`` float32 ``[examples, 1]``, 1 or -1 with equal chances.

    Raises
    ------
    ValueError
        For a share outside [0, 1], or fewer than 3 inputs.

    Examples
    --------
    >>> points = draw_patches(10, 0.8, np.random.default_rng(0))
    >>> u, v = features()
    >>> bool((points.x[:, 0] == points.y * u).all()), int((points.x[:, 1] == points.y * v).all(1).sum())
    (True, 8)
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share: got {share!r}; allowed is a number from 0 to 1.")
    u, v = features(inputs, weak, strong)
    has = torch.from_numpy(draw.permutation(examples) < round(share * examples))[:, None]
    y = torch.from_numpy(draw.integers(0, 2, (examples, 1)) * 2 - 1).float()
    drawn = torch.from_numpy(noise * draw.standard_normal((examples, 2, inputs))).float()
    drawn[..., :2] = 0.0
    return Split(torch.stack([y * u, torch.where(has, y * v, drawn[:, 0]), drawn[:, 1]], 1), y)


def same_sign(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the output has the target's sign, else 0.

    Examples
    --------
    >>> same_sign(torch.tensor([[0.1], [-2.0]]), torch.tensor([[1.0], [1.0]])).tolist()
    [1.0, 0.0]
    """
    return (output * target > 0).reshape(-1).float()


def feature_noise(
    inputs: int = 40,
    weak: float = 0.6,
    strong: float = 1.8,
    share: float = 0.8,
    noise: float = 0.15,
    examples: int = 60,
    filters: int = 10,
    std: float = 0.02,
    seed: int = 0,
) -> Workload:
    """Return points with a weak feature, of which a share has a strong one too, for a two-layer network of squared ReLUs.

    Validation and test tell points without the strong feature (source ``weak``) from points with it (``strong``): a
    network that has learned the strong feature alone is right on these, and at chance on those.

    Parameters
    ----------
    inputs, weak, strong, noise
        As of `draw_patches`.
    share : float
        Of the training points that have the strong feature. Default 0.8.
    examples : int
        Training points. Default 60.
    filters, std
        Of `PatchCNN`.
    seed : int
        Decides the points.
    """
    sizes = {"inputs": inputs, "weak": weak, "strong": strong, "noise": noise}

    def points(name: str, count: int, with_strong: float) -> tuple[Tensor, Tensor]:
        return tuple(draw_patches(count, with_strong, philox(f"feature_noise {name}", seed), **sizes))  # type: ignore[arg-type, return-value]

    held_out = {
        split: {name: points(f"{split} {name}", 500, float(name == "strong")) for name in ("weak", "strong")}
        for split in ("val", "test")
    }
    return Workload(
        model=functools.partial(PatchCNN, inputs, filters, std),
        train=points("train", examples, share),
        val=held_out["val"],
        test=held_out["test"],
        loss=MSE(),
        metrics={"acc": same_sign},
        name="feature_noise",
    )
