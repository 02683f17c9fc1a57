"""How much does the loss rise when the logits are a little off?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.class_scores import class_scores
from regimes.probes.view import View


@register
class LogitSharpness(ViewProbe):
    r"""Largest relative rise of the loss within a small neighborhood of the logits, averaged over the step's units.

    With logits z of a unit, its class y, L(z) = log sum_k exp(z_k) - z_y, and the neighborhood C

    .. math:: S = \frac{\max_{\delta \in C} L(z + \delta) - L(z)}{1 + L(z)}

    Parameters
    ----------
    radius : float
        epsilon. Default 1e-3, Keskar et al.
    within : "box" or "ball"
        C: every \|delta_k\| <= epsilon (\|z_k\| + 1), Keskar et al.'s and the paper's; or \|\|delta\|\| <= epsilon, for which S /
        epsilon tends to \|\|softmax(z) - onehot(y)\|\| / (1 + L). Default "box".
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the loss does not call ``torch.nn.functional.cross_entropy`` with classes as targets.

    Notes
    -----
    L is convex, so that the maximum lies on the border. In a box it is a corner: L rises with every logit but the class's
    own. In a ball delta is epsilon times the direction of the gradient at z + delta, found by going there again and again
    (which never lowers L) from the gradient at z and from the strongest other class, and taking the higher of the two. Both
    are of the loss that is named here, without label smoothing or a weight of classes.

    References
    ----------
    J. Lee, J. Bae, B. Kim, S. J. Kwon and D. Lee, To FP8 and Back Again: Quantifying Reduced Precision Effects on LLM
    Training Stability, 2024, arXiv:2405.18710; N. S. Keskar et al., On Large-Batch Training for Deep Learning, ICLR 2017,
    arXiv:1609.04836, metric 2.1.

    Examples
    --------
    >>> loss = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1])
    >>> batch = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    >>> {name: round(value, 6) for name, value in LogitSharpness(radius=0.1)(torch.nn.Identity(), loss, batch).items()}
    {'': 0.068474, 'largest': 0.068474}
    """

    radius: float = fixed(1e-3, above=0)
    within: Literal["box", "ball"] = fixed("box")

    card = Card(
        title="Sharpness of the loss in the space of logits",
        axes=("regime",),
        source="Lee et al. 2024, arXiv:2405.18710; Keskar et al. 2017, arXiv:1609.04836",
        when="Training in few bits: does it rise before the loss does?",
        cost="one forward, and a pass over the logits",
        shelf="atlas",
        rows=("fp8-stability",),
        defaults={"radius": "1e-3, Keskar et al.; the paper's was not read"},
        deviations=(
            "The mean over all units of the batch; the paper takes the last token's logits, whose maximum it searches for by "
            "an optimizer. In closed form all units cost no more than one forward.",
            "Not multiplied by 100.",
            "That the paper's neighborhood is Keskar et al.'s box is known from descriptions of it; its text was not read.",
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the mean and the largest."""
        logits, target = class_scores(view)
        found = logit_sharpness(logits, target, self.radius, self.within)
        return {"": found.mean().item(), "largest": found.max().item()}


def logit_sharpness(
    logits: Tensor, target: Tensor, radius: float, within: Literal["box", "ball"] = "box", iterations: int = 100
) -> Tensor:
    """Return S of every unit; `LogitSharpness` says what it is.

    Parameters
    ----------
    logits : Tensor, shape (units, classes)
    target : Tensor of int64, shape (units,)
    radius : float
    within : "box" or "ball"
    iterations : int
        Most ascents of a ball, which end when none moves by more than 1e-12 of the radius.
    """
    own = functional.one_hot(target, logits.shape[-1]).to(logits.dtype)
    before = functional.cross_entropy(logits, target, reduction="none")
    if within == "box":
        worst = logits + radius * (logits.abs() + 1.0) * (1.0 - 2.0 * own)
        after = functional.cross_entropy(worst, target, reduction="none")
    else:
        rival = functional.one_hot(logits.masked_fill(own.bool(), -torch.inf).argmax(-1), logits.shape[-1])
        ends = [
            _ascended(logits, own, start, radius, iterations) for start in (logits.softmax(-1), rival.to(own.dtype))
        ]
        after = torch.stack([functional.cross_entropy(end, target, reduction="none") for end in ends]).amax(0)
    return (after - before) / (1.0 + before)


def _ascended(logits: Tensor, own: Tensor, start: Tensor, radius: float, iterations: int) -> Tensor:
    """The logits moved by `radius` along their own gradient there, beginning along start - own."""
    direction = functional.normalize(start - own, dim=-1, eps=1e-300)
    for _ in range(iterations):
        last, moved = direction, logits + radius * direction
        direction = functional.normalize(moved.softmax(-1) - own, dim=-1, eps=1e-300)
        if (direction - last).abs().max() <= 1e-12:
            break
    return logits + radius * direction
