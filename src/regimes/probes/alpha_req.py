"""How fast does the variance of the features fall off from one direction to the next?"""

from __future__ import annotations

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.spectrum import Token, feature_moments, power_law
from regimes.probes.view import View


@register
class AlphaReQ(ViewProbe):
    r"""Exponent of the power law that the eigenvalues of a layer's features follow.

    With l_1 >= ... >= l_d the eigenvalues of the covariance of the centered features of fixed examples

    .. math:: l_i \propto i^{-\alpha}, \qquad \log l_i = c - \alpha \log i \quad (i_0 \le i \le i_1)

    by least squares over a window of ranks. The larger alpha, the fewer directions hold the variance. The model runs in
    evaluation mode. The covariance is summed up in float64 from batch to batch, d * d numbers. Rotating or scaling the
    features changes nothing.

    Values: "" (alpha), ``residual``, the root-mean-square distance of the log l_i from the line (is it a power law at
    all?), and ``ranks``, how many l_i were fitted: those of the window that are not rounding.

    Parameters
    ----------
    module : str or None
        Whose output the features are. None: what goes into the last layer with parameters, the head.
    token : int or "mean"
        Which token of a sequence, counted from the end where negative, or their mean; of padded sequences the last one
        is padding. Default -1.
    window : tuple of two int, or None
        i_0 and i_1, ranks counted from 1. None: from a tenth of the d features, at most 11, to the last of them, at
        most 100.
    examples : int
        Training examples, many times i_1: the tail of few examples' spectrum is too steep. Default 2,048. In a loop of
        one's own it is the batch that is given.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If there is no such module or token, the module gives no tensor, or the window holds fewer than two eigenvalues
        above rounding.

    References
    ----------
    K. K. Agrawal, A. K. Mondal, A. Ghosh and B. Richards, alpha-ReQ: Assessing Representation Quality in
    Self-Supervised Learning by Measuring Eigenspectrum Decay, NeurIPS 2022; M. Z. Li et al., Tracing the Representation
    Geometry of Language Models from Pretraining to Post-training, NeurIPS 2025, arXiv:2509.23024.

    Examples
    --------
    Variances 1, 1/4 and 1/9 are i^-2.

    >>> import torch
    >>> signs = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    >>> features = signs * torch.tensor([1.0, 1 / 2, 1 / 3], dtype=torch.float64)
    >>> found = AlphaReQ()(torch.nn.Linear(3, 1).double(), lambda m, x: m(x).mean(), features)
    >>> {name: round(v, 6) for name, v in found.items()}
    {'': 2.0, 'residual': 0.0, 'ranks': 3}
    """

    module: str | None = fixed(None)
    token: Token = fixed(-1)
    window: tuple[int, int] | None = fixed(None, low=1)
    examples: int = fixed(2048, low=2)

    card = Card(
        title="Power law of the feature spectrum",
        axes=("regime",),
        source="Agrawal et al. 2022; Li et al. 2025, arXiv:2509.23024",
        when="Beside RankMe: does the head or the tail of the spectrum move? It only looks, so there is no claim to re-test.",
        cost="a forward on 2,048 examples and the eigenvalues of a d * d matrix",
        shelf="atlas",
        rows=("representation-geometry-phases",),
        defaults={"window": "11 to 100, common in reimplementations, where there are 100 features; less for fewer"},
        deviations=("Every rank of the window counts the same.", "Fixed training examples stand for fresh contexts."),
    )

    def validate(self) -> None:
        """Refuse a window without two ranks."""
        if self.window is not None and self.window[0] >= self.window[1]:
            raise DeclarationError(f"got {self.window}; allowed: a first rank and a later last one", "window")

    def measure(self, view: View) -> dict[str, float]:
        """Return the exponent, the distance from the line and the number of ranks."""
        spectrum = feature_moments(view, self.module, self.token, self.examples).eigenvalues()
        first, last = self.window or (min(11, 1 + len(spectrum) // 10), min(100, len(spectrum)))
        fit = power_law(spectrum, first, last)
        return {"": fit.alpha, "residual": fit.residual, "ranks": fit.ranks}
