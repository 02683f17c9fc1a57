"""NoProp: every block learns alone to denoise the label; no gradient passes between blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card, Claim
from regimes.core.component import knob
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Knob, Loss, State
from regimes.core.registry import register
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import split


class Terms(NamedTuple):
    """What NoProp's loss is the sum of, each example by itself.

    Parameters
    ----------
    answer : Tensor, shape (n,)
        -log p(y | z_T), of the output head alone.
    prior : Tensor, shape (n,)
        KL(q(z_0 | y) || N(0, I)): of the embedding alone, constant where that is fixed.
    denoising : Tensor, shape (T, n)
        Of block t alone, and of the embedding where that is learned.
    """

    answer: Tensor
    prior: Tensor
    denoising: Tensor


@register
class NoProp(Loss):
    r"""Each block of a stack guesses the label's embedding from the example and a noisy embedding, by itself.

    With the embedding u_y of class y (a row of E) and how much of it is left at level t, abar_t, rising from near 0
    at t = 0 to near 1 at t = T, z_t = sqrt(abar_t) u_y + sqrt(1 - abar_t) noise is drawn at every level; block t reads
    the example and z_{t-1} and guesses u_t = E^T softmax(logits_t). The loss of an example is

    .. math::
        \ell = -\log p(y \mid z_T) + \mathrm{KL}\big(q(z_0 \mid y) \,\|\, N(0, I)\big)
        + \frac{\eta}{2} \sum_{t=1}^{T} (\mathrm{SNR}_t - \mathrm{SNR}_{t-1}) \lVert u_t - u_y \rVert^2,
        \qquad \mathrm{SNR}_t = \frac{\bar\alpha_t}{1 - \bar\alpha_t}

    with p a linear head. No block's output is another's input: there is no gradient between blocks, and no forward
    through the stack. At inference z_0 ~ N(0, I) and block after block moves z by `posterior`, its guess for u_y.

    Parameters
    ----------
    eta : knob
        Weight of the blocks' losses. Default 0.1 (from memory of the paper). With a fixed embedding every parameter has
        one term only: a rule such as AdamW, that divides by each coordinate's own scale, then hardly sees it.

    Notes
    -----
    The model has ``alpha_bar``, shape (T + 1,), best in float64, and ``embedding`` E, shape (classes, width);
    ``model(x, z=z)`` with z of shape (T + 1, n, width) returns the logits of all blocks, (T, n, classes), and those of the
    head, (n, classes); ``model(x)`` is the inference. `regimes.workloads.models.DenoisingBlocks` is such a model.

    The gradient of a learned embedding goes through z, too: without it, E = 0 would be the best there is. With it eta
    decides, against the answer's term, how far classes keep apart: on digits, 16 numbers wide, several share one
    embedding at the default eta and none does at 1e-3 and below.

    Weights of blocks differ by orders of magnitude, the last one's is the largest: a clip of the whole gradient's norm
    would leave little of the others'. The noise of an example is drawn with its micro-batch.

    Raises
    ------
    DeclarationError
        If the model has no ``alpha_bar`` or no ``embedding``, or what it returns has another shape.

    References
    ----------
    Q. Li, Y. W. Teh and R. Pascanu, NoProp: Training Neural Networks without Full Back-propagation or Full
    Forward-propagation, 2025, arXiv:2503.24322, equations 3 to 8.

    Examples
    --------
    >>> levels = cosine_levels(2); [f"{float(level):.4f}" for level in levels]
    ['0.0002', '0.5000', '0.9998']
    >>> a, b, c = posterior(levels)
    >>> [f"{float(value):.4f}" for value in a + b * levels[:-1].sqrt()], [f"{float(v):.4f}" for v in levels[1:].sqrt()]
    (['0.7071', '0.9999'], ['0.7071', '0.9999'])
    """

    eta: Knob = knob(0.1, above=0)

    separable = False
    card = Card(
        title="Blocks that denoise the label, each by itself",
        axes=("regime",),
        source="Li et al. 2025, arXiv:2503.24322",
        when="Blocks are to be trained apart, in parallel or one after the other, without a backward through the stack.",
        cost="one forward and backward of every block; memory of one block where they are trained apart",
        shelf="atlas",
        rows=("noprop",),
        defaults={"eta": "0.1, from memory of the paper, not looked up"},
        deviations=(
            "The discrete-time variant alone; the paper has two in continuous time, whose blocks share weights.",
            "All blocks in every step, which is the expectation over t that the paper writes; its loop takes one at a time.",
            "The paper's cosine schedule is not known to us at its ends. Here neither is 0 or 1, so that every SNR is finite; "
            "it decides the largest weight (SNR_T = 6,500), so that eta means something else than in the paper.",
        ),
        claims=(
            Claim(
                "Denoising blocks trained apart are right at most 4 points less often than the same stack trained by "
                "backpropagation through its inference.",
                {
                    "workload": "digits_noprop",
                    "compare": {
                        "baseline": "backprop",
                        "metric": "acc",
                        "better": "higher",
                        "margin": 0.04,
                        "seeds": 8,
                        "trials": 4,
                    },
                    "tune": {"*.lr.peak": "times(1/8, 8)"},
                    "arms": {
                        "backprop": {
                            "optimizer": "AdamW(lr=Cosine(1.5e-2, warmup='5%'), weight_decay=1e-3)",
                            "batch_size": 128,
                            "budget": "60 epochs",
                        },
                        "noprop": {"like": "backprop", "loss": "NoProp()"},
                    },
                },
                paper_scale="MNIST, CIFAR-10 and CIFAR-100, ten blocks",
                says="not worse",
            ),
        ),
    )

    @classmethod
    def example(cls) -> NoProp:
        """With a weight that plain gradient descent bears."""
        return cls(1e-4)

    def units(self, state: State, model: nn.Module, batch: object) -> UnitLosses:
        """The sum of all terms, one unit per example."""
        terms = self.terms(model, batch)
        return UnitLosses(terms.answer + terms.prior + terms.denoising.sum(0))

    def terms(self, model: nn.Module, batch: object) -> Terms:
        """Return the terms of the loss, drawing the noise of all levels from torch's global generator."""
        args, kwargs, target = split(batch)
        levels, embedding = (_part(model, name) for name in ("alpha_bar", "embedding"))
        u = embedding[target]  # (n, width)
        kept, lost = (part.sqrt().to(u.dtype)[:, None, None] for part in (levels, 1.0 - levels))  # (T + 1, 1, 1)
        z = kept * u + lost * torch.randn(len(levels), *u.shape, dtype=u.dtype, device=u.device)
        logits, answers = model(*args, **kwargs, z=z)
        expected = (len(levels) - 1, len(u), len(embedding))
        if tuple(logits.shape) != expected:
            raise DeclarationError(
                f"the blocks gave logits of shape {tuple(logits.shape)}; allowed: {expected}, a block for each noise level",
                "loss",
            )
        wrong = (logits.softmax(-1) @ embedding - u).square().sum(-1)  # (T, n)
        gain = (levels / (1.0 - levels)).diff().to(u.dtype)  # of SNR
        return Terms(
            functional.cross_entropy(answers, target, reduction="none"),
            _divergence(u, levels[0].to(u.dtype)),
            0.5 * self.eta * gain[:, None] * wrong,
        )


def _part(model: nn.Module, name: str) -> Tensor:
    found = getattr(model, name, None)
    if not isinstance(found, Tensor):
        raise DeclarationError(
            f"NoProp trains a stack of denoising blocks, and {type(model).__name__} has no tensor '{name}'; allowed: a "
            "model such as regimes.workloads.models.DenoisingBlocks",
            "loss",
        )
    return found


def _divergence(u: Tensor, level: Tensor) -> Tensor:
    """KL(N(sqrt(level) u, (1 - level) I) || N(0, I)), shape (n,)."""
    return 0.5 * (level * u.square().sum(-1) - u.shape[-1] * (level + torch.log1p(-level)))


def cosine_levels(blocks: int, offset: float = 0.008) -> Tensor:
    r"""Return how much of the embedding's square is left at each level: float64, shape (blocks + 1,), rising.

    .. math:: \bar\alpha_t = \sin^2\left(\frac{\pi}{2} \cdot \frac{t / T + s}{1 + 2 s}\right)

    Parameters
    ----------
    blocks : int
        T.
    offset : float
        s, which keeps both ends off 0 and 1. Default 0.008, as Nichol and Dhariwal have it at one end.
    """
    time = torch.arange(blocks + 1, dtype=torch.float64) / blocks
    return torch.sin(0.5 * torch.pi * (time + offset) / (1.0 + 2.0 * offset)).square()


def posterior(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return (a, b, c), each of shape (T,), of the step z_t = a_t u + b_t z_{t-1} + sqrt(c_t) noise.

    It is the exact Gaussian q(z_t | z_{t-1}, u) of the chain z_{t-1} = sqrt(alpha) z_t + sqrt(1 - alpha) noise that
    begins at z_T: with alpha = abar_{t-1} / abar_t

    .. math::
        a_t = \frac{\sqrt{\bar\alpha_t} (1 - \alpha)}{1 - \bar\alpha_{t-1}}, \quad
        b_t = \frac{\sqrt{\alpha} (1 - \bar\alpha_t)}{1 - \bar\alpha_{t-1}}, \quad
        c_t = \frac{(1 - \bar\alpha_t) (1 - \alpha)}{1 - \bar\alpha_{t-1}}

    Parameters
    ----------
    levels : Tensor, shape (T + 1,)
        abar_0 ... abar_T, rising, in (0, 1).
    """
    before, after = levels[:-1], levels[1:]
    alpha, rest = before / after, 1.0 - before
    a = after.sqrt() * (1.0 - alpha) / rest
    b = alpha.sqrt() * (1.0 - after) / rest
    return a, b, (1.0 - after) * (1.0 - alpha) / rest
