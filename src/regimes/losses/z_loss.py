"""A loss, and a price on logits that drift away from the log probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Loss, State
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.cross_entropy import CrossEntropy
from regimes.losses.forward import OutputLoss


@register
class ZLoss(OutputLoss):
    r"""Add the squared logarithm of the softmax's normalizer to the loss of each unit.

    .. math:: \ell_u + c \, (\log Z_u)^2, \qquad \log Z_u = \log \sum_k e^{z_{uk}}, \qquad
        \frac{\partial}{\partial z_{uk}} c \, (\log Z_u)^2 = 2 c \log Z_u \, \mathrm{softmax}(z_u)_k

    with z_u the logits of unit u (an example, a token). Cross-entropy is the same for z and z + a, so that nothing else
    keeps them from drifting; with the price log Z stays near 0. Units weigh as in the loss added to: padding adds nothing.

    Parameters
    ----------
    loss : Loss
        What is added to: one that takes a softmax, `NextToken` or `CrossEntropy`.
    coefficient : knob
        c. Default 1e-4 (PaLM and the paper).

    Raises
    ------
    DeclarationError
        If the loss takes no softmax.

    Notes
    -----
    Drawn targets (rules that estimate a curvature) have the price's share of the Gauss-Newton matrix, too, which in the
    logits is (1 + 2 c log Z) (diag(p) - p p^T) + 2 c p p^T: a sign is drawn beside the class. LogZ shows what log Z is.

    References
    ----------
    A. Chowdhery et al., PaLM: Scaling Language Modeling with Pathways, 2022, arXiv:2204.02311, section 5; M. Wortsman et
    al., Small-scale proxies for large-scale Transformer training instabilities, ICLR 2024, arXiv:2309.14322.

    Examples
    --------
    >>> logits, target = torch.tensor([[0.0, 0.0], [3.0, 3.0]]), torch.tensor([0, 1])
    >>> priced = ZLoss(CrossEntropy(), coefficient=0.1).per_unit(logits, target).values
    >>> more = priced - CrossEntropy().per_unit(logits, target).values
    >>> [round(value, 4) for value in more.tolist()]  # 0.1 log(2)^2 and 0.1 (3 + log 2)^2
    [0.048, 1.3639]
    """

    loss: Loss = fixed()
    coefficient: Knob = knob(1e-4, low=0)

    card = Card(
        title="A price on drifting output logits",
        axes=("regime",),
        source="Chowdhery et al. 2022, arXiv:2204.02311; Wortsman et al. 2024, arXiv:2309.14322",
        when="Language models at high rates or for long, in low precision above all.",
        cost="one pass over the logits, and one back",
        shelf="atlas",
        rows=("small-scale-proxies",),
        defaults={"coefficient": "1e-4, PaLM and the paper"},
        claims=(
            Claim(
                "It ends no worse than the loss without it, by 0.02 nats on held-out text, each at the best of three rates.",
                {
                    "workload": {"name": "char_lm", "width": 32, "length": 32},
                    "compare": {
                        "baseline": "plain",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.02,
                        "seeds": 6,
                        "trials": 3,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "plain": {
                            "optimizer": "AdamW(lr=Cosine(4e-3, warmup='5%'), betas=[0.9, 0.95], weight_decay=0.0)",
                            "batch_size": 16,
                            "budget": "300 steps",
                        },
                        "priced": {"like": "plain", "loss": "ZLoss(NextToken())"},
                    },
                },
                paper_scale="C4, up to 1.2 B parameters, 100,000 steps",
                says="not worse",
            ),
        ),
    )

    @classmethod
    def example(cls) -> ZLoss:
        """At a price that shows."""
        return cls(CrossEntropy(), coefficient=0.1)

    def validate(self) -> None:
        """Refuse a loss without a softmax."""
        logits = getattr(type(self.loss), "logits", OutputLoss.logits)
        if logits is OutputLoss.logits or isinstance(self.loss, ZLoss):
            raise DeclarationError(
                f"got {self.loss!r}; allowed: a loss that takes a softmax, NextToken or CrossEntropy", "loss"
            )

    def init(self) -> State:
        """Return the memory of the loss added to."""
        return {"loss": self.loss.init()}

    def logits(self, output: Tensor, target: Tensor) -> Tensor:
        """Those of the loss added to."""
        return self._base.logits(output, target)

    def per_unit(self, output: Tensor, target: Tensor) -> UnitLosses:
        """Loss of each unit, with its price."""
        found = self._base.per_unit(output, target)
        price = self.coefficient * self._log_z(output, target).square()
        return UnitLosses(found.values + price.to(found.values.dtype), found.weights, found.examples)

    def per_unit_drawn(self, output: Tensor, target: Tensor, generator: torch.Generator) -> UnitLosses:
        """Loss of drawn classes times sqrt(1 + 2 c log Z), plus or minus sqrt(2 c) log Z."""
        found, log_z = self._base.per_unit_drawn(output, target, generator), self._log_z(output, target)
        curved = (1.0 + 2.0 * self.coefficient * log_z.detach()).clamp_min(0.0).sqrt()
        signs = 2.0 * torch.randint(2, log_z.shape, generator=generator, device=log_z.device).to(log_z.dtype) - 1.0
        price = signs * (2.0 * self.coefficient) ** 0.5 * log_z
        values = curved.to(found.values.dtype) * found.values + price.to(found.values.dtype)
        return UnitLosses(values, found.weights, found.examples)

    def _log_z(self, output: Tensor, target: Tensor) -> Tensor:
        return self.logits(output, target).logsumexp(-1)

    @property
    def _base(self) -> Any:
        return self.loss
