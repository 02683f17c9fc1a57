"""MeZO: two forward passes, no backward, the perturbation regenerated from its address."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import knob
from regimes.core.kinds import Knob, Optimizer, State
from regimes.core.registry import register

#: Perturbations are drawn in blocks of this many numbers, so that none is as large as a tensor.
BLOCK = 2**13

_ADAPTED = {"batch_size": 64, "mixture": "Mixture(clean=1)", "trainable": ["layers.1.*", "*bias"]}
_STUDY = {
    "workload": "digits_rotated",
    "compare": {"baseline": "scratch", "metric": "acc", "better": "higher", "margin": 0.1, "seeds": 8, "trials": 4},
    "tune": {"*.optimizer.lr": "times(1/4, 4)"},
    "arms": {
        "scratch": {**_ADAPTED, "optimizer": "MeZO(lr=0.01)", "budget": "5600 steps"},
        "pretrained": {
            "batch_size": 64,
            "phases": [
                {
                    "name": "pretrain",
                    "budget": "600 steps",
                    "optimizer": "AdamW(lr=0.003)",
                    "mixture": "Mixture(rotated=1)",
                },
                {**_ADAPTED, "name": "adapt", "budget": "5000 steps", "optimizer": "MeZO(lr=0.01)"},
            ],
        },
    },
}


@register
class MeZO(Optimizer):
    r"""Simultaneous perturbation with memory of a forward pass.

    With z ~ N(0, I) regenerated from the step's address whenever it is needed

    .. math:: \rho = \frac{L(\theta + \epsilon z) - L(\theta - \epsilon z)}{2 \epsilon}, \qquad
              \theta \leftarrow \theta - \text{lr}\,(\rho z + \lambda \theta)

    Both forwards are those of evaluation mode (no dropout, running statistics as they are), as the authors' code makes
    them: batch norm keeps the statistics with which the phase begins. Every record holds rho as ``projected_gradient``:
    `regimes.diagnosis.weights_at` makes the whole run again from its log alone.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-6, the paper's for large models; small ones need far more.
    eps : knob
        epsilon, the perturbation scale. Default 1e-3 (paper, appendix).
    weight_decay : knob
        lambda. Default 0.

    References
    ----------
    S. Malladi et al., Fine-Tuning Language Models with Just Forward Passes, NeurIPS 2023, arXiv:2305.17333,
    algorithm 1.

    Examples
    --------
    >>> MeZO(lr=1e-4)
    MeZO(lr=0.0001)
    """

    lr: Knob = knob(1e-6, low=0)
    eps: Knob = knob(1e-3, above=0)
    weight_decay: Knob = knob(0.0, low=0)

    single_evaluation = False
    uses_gradients = False
    exempt = {"leaves a skipped step untouched": "no copy is kept: weights return to rounding, as the card says"}
    card = Card(
        title="Zeroth-order fine-tuning with two forwards",
        axes=("rates", "order"),
        source="Malladi et al. 2023, arXiv:2305.17333",
        when="Fine-tuning where memory for a backward is missing.",
        cost="two forwards, no backward, no slots",
        rows=("mezo",),
        claims=(
            Claim(
                "What a network has learned on rotated digits lets it adapt the last layer to upright ones, at least ten "
                "points beyond a network that begins at random.",
                _STUDY,
                paper_scale="OPT 13B to 66B and RoBERTa-large on language tasks",
            ),
            Claim(
                "5,000 steps close at least 60% of the gap in accuracy between no adaptation and that of SGD with gradients, "
                "each at the better of two rates, within two points.",
                {
                    "seeds": 5,
                    "margin": 0.02,
                    "scale": "digits_rotated, 2,410 parameters, last layer and biases, 5,000 steps",
                },
                paper_scale="OPT 13B: within a point of fine-tuning on 7 of 11 tasks",
                says="not worse",
                measure="regimes.claims.zeroth_order:gap_closed",
            ),
            Claim(
                "Trained on the share of wrong answers itself, which has no gradient, it becomes right more often, by ten points.",
                {
                    "seeds": 8,
                    "margin": 0.1,
                    "scale": "digits_rotated, 2,410 parameters, last layer and biases, 1,000 steps",
                },
                paper_scale="RoBERTa-large on five tasks by accuracy, OPT 13B on SQuAD by F1",
                measure="regimes.claims.zeroth_order:error_rate",
            ),
        ),
        defaults={"eps": "1e-3, the paper's", "mode": "evaluation, as the authors' code"},
        deviations=(
            "Weights return to rounding, not bitwise, between the two forwards: no copy is kept.",
            "All that is trained decays; the authors' code leaves biases and norms out.",
        ),
    )

    def init(self, parameters: Mapping[str, Tensor]) -> State:
        """Nothing is kept."""
        return {}

    def step(self, state: State, parameters: Mapping[str, Tensor], evaluate: Any) -> State:
        """Two forwards at theta +- eps z, then the step along z."""

        def move(scale: float) -> None:
            self._add(parameters, evaluate.rng("mezo"), scale)

        with evaluate.moved(move, self.eps):
            plus = evaluate(grad=False, training=False)
        with evaluate.moved(move, -self.eps):
            minus = evaluate(grad=False, training=False)
        projected = (plus.loss - minus.loss) / (2.0 * self.eps)
        evaluate.log("projected_gradient", projected)
        self._descend(parameters, move, projected)
        return state

    @torch.no_grad()
    def _descend(self, parameters: Mapping[str, Tensor], move: Callable[[float], None], projected: float) -> None:
        for p in parameters.values():
            p.mul_(1.0 - self.lr * self.weight_decay)
        move(-self.lr * projected)

    def again(
        self, parameters: Mapping[str, Tensor], generator: Callable[[], torch.Generator], projected: float
    ) -> None:
        """Make a step of the past again, in place, without data and without a forward.

        Parameters
        ----------
        parameters : mapping of str to Tensor
            As they were before the step.
        generator : callable
            Returns a generator at the start of the step's stream ``mezo``.
        projected : float
            What the step logged as ``projected_gradient``.
        """

        def move(scale: float) -> None:
            self._add(parameters, generator(), scale)

        for scale in (self.eps, -self.eps, -self.eps, self.eps):  # there and back twice: rounding is made again, too
            move(scale)
        self._descend(parameters, move, projected)

    @staticmethod
    @torch.no_grad()
    def _add(parameters: Mapping[str, Tensor], generator: torch.Generator, scale: float) -> None:
        for p in parameters.values():
            for block in pieces(p):
                z = torch.randn(block.shape, generator=generator, dtype=block.dtype, device=generator.device)
                block.add_(z.to(block.device), alpha=scale)


def pieces(p: Tensor) -> Sequence[Tensor]:
    """Views of `p`, none large; a tensor that does not lie in rows (channels_last) is one block."""
    return p.view(-1).split(BLOCK) if p.is_contiguous() else (p,)
