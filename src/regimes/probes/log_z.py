"""Do the logits drift away from the log probabilities?"""

from __future__ import annotations

import torch

from regimes.core.card import Card
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.class_scores import class_scores
from regimes.probes.view import View


@register
class LogZ(ViewProbe):
    r"""Logarithm of the normalizer of the softmax that the loss takes, on the step's batch.

    With the logits z_u of unit u (a token, say)

    .. math:: \log Z_u = \log \sum_k e^{z_{uk}}

    Values: "", its mean over units; ``rms``, the root of the mean of its square, which `ZLoss` keeps small; ``largest``, the
    largest size. The loss is the same for z and z + c: nothing but rounding and `ZLoss` keeps log Z where it is.

    Parameters
    ----------
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the loss does not call ``torch.nn.functional.cross_entropy``.

    References
    ----------
    M. Wortsman et al., Small-scale proxies for large-scale Transformer training instabilities, ICLR 2024, arXiv:2309.14322,
    section 3.1.2; A. Chowdhery et al., PaLM, 2022, arXiv:2204.02311.

    Examples
    --------
    >>> loss = lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    >>> batch = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([0, 1])
    >>> {name: round(value, 4) for name, value in LogZ()(torch.nn.Identity(), loss, batch).items()}
    {'': 1.6931, 'rms': 1.9664, 'largest': 2.6931}
    """

    card = Card(
        title="Drift of the output logits",
        axes=("regime",),
        source="Wortsman et al. 2024, arXiv:2309.14322",
        when="High rates and long runs of language models: is ZLoss wanted?",
        cost="one forward",
        shelf="atlas",
        rows=("small-scale-proxies",),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return mean, root mean square and largest size."""
        found = torch.logsumexp(class_scores(view)[0], -1)
        return {
            "": found.mean().item(),
            "rms": found.square().mean().sqrt().item(),
            "largest": found.abs().max().item(),
        }
