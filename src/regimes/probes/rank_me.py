"""In how many directions do the features vary?"""

from __future__ import annotations

from typing import Literal

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.spectrum import Token, feature_moments, rank_of
from regimes.probes.view import View


@register
class RankMe(ViewProbe):
    r"""Effective rank of a layer's features: between 1 and their number d, 0 where they do not vary at all.

    With l_1 >= ... >= l_d the eigenvalues of the covariance of the centered features of fixed examples

    .. math:: \mathrm{RankMe} = \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = \frac{l_i}{\sum_j l_j} + \epsilon

    The model runs in evaluation mode. The covariance is summed up in float64 from batch to batch, d * d numbers.
    Rotating or scaling the features changes nothing. A series of it over training is cut into phases by
    `regimes.detect_phases`.

    Parameters
    ----------
    module : str or None
        Whose output the features are. None: what goes into the last layer with parameters, the head.
    token : int or "mean"
        Which token of a sequence, counted from the end where negative, or their mean; of padded sequences the last one
        is padding. Default -1.
    examples : int
        Training examples, many times d to be rid of the bias of few: n of them span at most n - 1 directions. Default
        2,048. In a loop of one's own it is the batch that is given.
    of : "eigenvalues" or "singular_values"
        What p_i are shares of: of l_i (Li et al.), or of the features' singular values, sqrt(n l_i) (Garrido et al.,
        who do not center); the latter is the larger number. Default "eigenvalues".
    eps : float
        epsilon. Default 1e-7 (Garrido et al.).
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If there is no such module or token, or the module gives no tensor.

    References
    ----------
    M. Z. Li et al., Tracing the Representation Geometry of Language Models from Pretraining to Post-training, NeurIPS
    2025, arXiv:2509.23024; Q. Garrido, R. Balestriero, L. Najman and Y. LeCun, RankMe: Assessing the Downstream
    Performance of Pretrained Self-Supervised Representations by Their Rank, ICML 2023, arXiv:2210.02885.

    Examples
    --------
    Features that vary alike in two of three directions:

    >>> import torch
    >>> corners = torch.tensor([[1.0, 1.0, 7.0], [1.0, -1.0, 7.0], [-1.0, 1.0, 7.0], [-1.0, -1.0, 7.0]])
    >>> round(RankMe()(torch.nn.Linear(3, 1), lambda m, x: m(x).mean(), corners)[""], 4)
    2.0
    """

    module: str | None = fixed(None)
    token: Token = fixed(-1)
    examples: int = fixed(2048, low=2)
    of: Literal["eigenvalues", "singular_values"] = fixed("eigenvalues")
    eps: float = fixed(1e-7, low=0)

    card = Card(
        title="Effective rank of features",
        axes=("regime",),
        source="Li et al. 2025, arXiv:2509.23024; Garrido et al. 2023, arXiv:2210.02885",
        when="Do features collapse, spread or consolidate while training?",
        cost="a forward on 2,048 examples and the eigenvalues of a d * d matrix",
        shelf="atlas",
        rows=("representation-geometry-phases",),
        defaults={"eps": "1e-7, Garrido et al.", "of": "eigenvalues of the covariance, Li et al."},
        deviations=(
            "Features are centered for singular values, too, and values below 1e-8 of the largest are rounding.",
            "Fixed training examples stand for fresh contexts.",
        ),
        claims=(
            Claim(
                "Where tokens are Zipf-distributed and the embedding is a bottleneck, effective rank falls, rises and falls "
                "again, by more of its range than with uniform tokens.",
                {"seeds": 8, "margin": 0.05, "scale": "64 tokens, linear bottleneck of 8, 20,000 full-batch steps"},
                paper_scale="OLMo and Pythia, 160M to 12B",
                measure="regimes.claims.geometry:bottleneck",
            ),
            Claim(
                "So it does than with an embedding as wide as there are tokens.",
                {"seeds": 8, "margin": 0.05, "scale": "64 tokens, linear bottleneck of 8, 20,000 full-batch steps"},
                paper_scale="OLMo and Pythia, 160M to 12B",
                measure="regimes.claims.geometry:wide",
            ),
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the effective rank."""
        spectrum = feature_moments(view, self.module, self.token, self.examples).eigenvalues()
        return {"": rank_of(spectrum.sqrt() if self.of == "singular_values" else spectrum, self.eps)}
