"""How strongly do the rows of a weight answer to given directions?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError, nearest
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.view import View

_SCALE = "60 points of 3 patches of 40 numbers, 2 x 10 filters, batch 1, squared loss, 3,000 steps"


@register
class FeatureResponse(ViewProbe):
    r"""Largest inner product of a row of a weight with each of some directions.

    With the rows w_r of the parameter (a convolution's kernel counts as the matrix (out, rest)) and a direction d

    .. math:: \max_r \; w_r \cdot d

    Neither is normalized: with d the feature itself, it is what the most responsive filter says to it.

    Values: under the name of each direction.

    Parameters
    ----------
    parameter : str
        Its name.
    directions : tuple of tuple of float
        As many numbers each as a row has.
    names : tuple of str
        Of the directions. Default: "0", "1" ...
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If there are no directions, or not as many names; if there is no such parameter, or its rows have another length.

    References
    ----------
    M. Lu, B. Wu, X. Yang and D. Zou, Benign Oscillation of Stochastic Gradient Descent with Large Learning Rates, ICLR
    2024, arXiv:2310.17074.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [0.5, -2.0]])})
    >>> FeatureResponse("weight", [[0.5, 0.0], [0.0, 1.0]], ["weak", "strong"])(model, None, None)
    {'weak': 0.5, 'strong': 0.0}
    """

    parameter: str = fixed()
    directions: tuple[tuple[float, ...], ...] = fixed()
    names: tuple[str, ...] = fixed(())

    card = Card(
        title="Response of filters to given directions",
        axes=("rates", "regime"),
        source="Lu et al. 2024, arXiv:2310.17074",
        when="Data whose features are known: which of them has the network learned?",
        cost="a product of the weight with each direction",
        shelf="atlas",
        rows=("benign-oscillation",),
        deviations=(
            "The paper's definition of the data was not read in full: where a point lacks the strong feature, its patch "
            "holds noise in the workload feature_noise, and noise has no part along the features.",
            "The rate of the claims is that of half the squared difference times the number of filters of each sign, as the "
            "second layer divides by it.",
        ),
        claims=(
            Claim(
                "The response to the weak feature is ten times as large at a rate of 0.1 as at 0.003 (log10).",
                {"seeds": 5, "margin": 0.1, "scale": _SCALE},
                paper_scale="the same kind of data and network, theorem and experiment",
                measure="regimes.claims.benign_oscillation:response",
            ),
            Claim(
                "Points with the weak feature alone are told right more often at 0.1 than at 0.003, by ten points.",
                {"seeds": 5, "margin": 0.02, "scale": _SCALE},
                paper_scale="the same kind of data and network, theorem and experiment",
                measure="regimes.claims.benign_oscillation:weak_alone",
            ),
            Claim(
                "So they are where the small rate is given as many steps more as it is smaller.",
                {"seeds": 5, "margin": 0.02, "scale": f"{_SCALE} at 0.1, 100,000 at 0.003"},
                paper_scale="not in the paper",
                measure="regimes.claims.benign_oscillation:weak_alone_at_equal_movement",
            ),
        ),
    )

    @classmethod
    def example(cls) -> FeatureResponse:
        """Two directions of the first layer of the conformance suite's model."""
        return cls("0.weight", [[1.0] * 6, [0.0, 1.0] * 3], ["all", "every other"])

    def validate(self) -> None:
        """Refuse no directions, and names that do not fit."""
        if not self.directions:
            raise DeclarationError("got none; allowed: one or more, each of as many numbers as a row has", "directions")
        if self.names and len(self.names) != len(self.directions):
            raise DeclarationError(f"got {len(self.names)}; allowed: {len(self.directions)}, one a direction", "names")

    def measure(self, view: View) -> dict[str, float]:
        """Return the response to each direction."""
        named = dict(view.model.named_parameters())
        if self.parameter not in named:
            raise DeclarationError(
                f"there is no parameter '{self.parameter}'; {nearest(self.parameter, named)}", "parameter"
            )
        labels = self.names or tuple(map(str, range(len(self.directions))))
        return feature_response(named[self.parameter], dict(zip(labels, self.directions)))


def feature_response(weight: Tensor, directions: Mapping[str, Sequence[float] | Tensor]) -> dict[str, float]:
    """Return the largest inner product of a row of `weight` with each direction, by name.

    Parameters
    ----------
    weight : Tensor, shape (rows, ...)
        All axes but the first are one row.
    directions : mapping of str to sequence of float or Tensor

    Raises
    ------
    DeclarationError
        If a direction has another length than a row.

    Examples
    --------
    >>> feature_response(torch.tensor([[1.0, 2.0], [3.0, -1.0]]), {"u": [1.0, 1.0]})
    {'u': 3.0}
    """
    rows = weight.detach().reshape(len(weight), -1)
    found = {}
    for name, direction in directions.items():
        d = torch.as_tensor(direction).to(rows).reshape(-1)
        if len(d) != rows.shape[1]:
            raise DeclarationError(
                f"got {len(d)} numbers for '{name}'; allowed: {rows.shape[1]}, as many as a row has", "directions"
            )
        found[name] = (rows @ d).max().item()
    return found
