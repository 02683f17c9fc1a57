"""Points labelled by the sign of one coordinate, few of them near the boundary, for a perceptron."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from regimes.engine.metrics import Accuracy
from regimes.engine.workload import Workload
from regimes.losses import Hinge
from regimes.workloads.synthetic import philox
from regimes.workloads.tables import Split


class Perceptron(nn.Module):
    r"""A linear function of d inputs, :math:`w \cdot x / \sqrt d`, with w from N(0, I).

    Parameters
    ----------
    inputs : int
        d.

    Examples
    --------
    >>> net = Perceptron(4)
    >>> _ = net.load_state_dict({"linear.weight": torch.tensor([[1.0, 0.0, 0.0, 2.0]])})
    >>> net(torch.tensor([[1.0, 1.0, 1.0, 1.0]])).tolist()
    [[1.5]]
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 1, bias=False)
        nn.init.normal_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` to ``[batch, 1]``."""
        return self.linear(x) / self.linear.in_features**0.5


def draw_points(examples: int, inputs: int, chi: float, draw: np.random.Generator) -> Split:
    r"""Draw points whose first coordinate has the density :math:`\propto |x_1|^\chi e^{-x_1^2 / 2}`, the others N(0, 1).

    Parameters
    ----------
    examples, inputs : int
    chi : float
        Above -1. At 0 all coordinates are alike; the larger, the fewer points lie near the boundary.
    draw : numpy Generator

    Returns
    -------
    Split
        ``x`` float32 ``[examples, inputs]``; ``y`` float32 ``[examples, 1]``, 1 where x_1 is above 0, else 0.

    Raises
    ------
    ValueError
        For another chi.

    Examples
    --------
    >>> points = draw_points(1000, 3, 1.0, np.random.default_rng(0))
    >>> points.x.shape, bool(((points.x[:, :1] > 0) == points.y).all())
    (torch.Size([1000, 3]), True)
    """
    if not chi > -1.0:
        raise ValueError(f"chi: got {chi!r}; allowed is a number above -1.")
    x = draw.standard_normal((examples, inputs))
    # Half the square of such a coordinate has a gamma distribution.
    size = np.sqrt(2.0 * draw.gamma((chi + 1.0) / 2.0, size=examples))
    x[:, 0] = np.where(x[:, 0] > 0, size, -size)
    return Split(torch.from_numpy(x).float(), torch.from_numpy(x[:, :1] > 0).float())


def perceptron(inputs: int = 128, examples: int = 256, chi: float = 0.0, seed: int = 0) -> Workload:
    """Return points labelled by the sign of their first coordinate, for a perceptron with the hinge loss.

    Parameters
    ----------
    inputs : int
        Coordinates. Default 128.
    examples : int
        Training points. Default 256. Up to 4,096, more of them are the same ones and others.
    chi : float
        Power of the density near the boundary. Default 0: normal.
    seed : int
        Decides the points.
    """
    # As many are drawn in any case, so that fewer are a part of more.
    most = max(examples, 4096)
    train = draw_points(most, inputs, chi, philox("perceptron train", seed))
    val, test = (
        tuple(draw_points(1000, inputs, chi, philox(f"perceptron {split}", seed))) for split in ("val", "test")
    )
    return Workload(
        model=functools.partial(Perceptron, inputs), train=(train.x[:examples], train.y[:examples]), val=val, test=test,
        loss=Hinge(), metrics={"acc": Accuracy()}, name="perceptron",
    )  # fmt: skip
