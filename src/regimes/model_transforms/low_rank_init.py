"""Weights of low rank and unchanged norm."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching


@register
class LowRankInit(ModelTransform):
    r"""Keep the `rank` largest singular values of matrices, at the norm that they had.

    With W = U diag(s_1 >= s_2 >= ...) V^T, as the model was initialized,

    .. math:: W_0 = c \sum_{i \le r} s_i u_i v_i^T

    where c restores the norm, so that the size of the weights does not confound their rank. On entry to the first phase
    it makes the start of low rank. Of what the patterns match, vectors stay as they are; a kernel (out, in, height,
    width) counts as the matrix (out, in * height * width).

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names.
    rank : int
        r. A matrix with no longer side stays bit by bit what it was.
    norm : "frobenius" or "spectral"
        Which norm stays the same: c = ||s|| / ||(s_1 ... s_r)||, or c = 1, because the largest singular value is kept
        anyway. Default "frobenius" (paper).

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches nothing, or all match no matrix.

    References
    ----------
    Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown and G. Lajoie, How connectivity structure shapes rich
    and lazy learning in neural circuits, ICLR 2024, arXiv:2310.08513.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 3, bias=False))
    >>> with torch.no_grad(): _ = net[0].weight.copy_(torch.diag(torch.tensor([4.0, 3.0, 0.0])))
    >>> _ = LowRankInit("0.weight", rank=1).fill(net, net, iter(()), Streams(0))
    >>> net[0].weight.detach().abs().round(decimals=4).tolist()
    [[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    patterns: tuple[str, ...] = fixed()
    rank: int = fixed(low=1)
    norm: Literal["frobenius", "spectral"] = fixed("frobenius")

    card = Card(
        title="Initial weights of low rank",
        axes=("phases", "regime"),
        source="Liu et al. 2024, arXiv:2310.08513",
        when="To ask for richer learning, or how much of a result hangs on the start; look with Laziness.",
        cost="one singular value decomposition of each matrix, once",
        shelf="atlas",
        rows=("rich-lazy-connectivity",),
        defaults={"norm": "the paper's"},
        deviations=('"spectral" keeps the largest singular value; the paper speaks of the spectral radius, too.',),
        claims=(
            Claim(
                "At one rate for every rank, as the authors train, a start of full rank has less to change than one of rank "
                "2 and the same norm, and its loss is lower after 100 steps. (That its loss is lower is our reading: the "
                "paper measures the change itself, as Laziness does, which no metric of a study sees.)",
                {
                    "workload": "digits_mlp",
                    "compare": {
                        "baseline": "low",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.02,
                        "seeds": 12,
                    },
                    "arms": {
                        "low": {
                            "optimizer": "SGD(lr=0.1)",
                            "batch_size": 32,
                            "budget": "100 steps",
                            "on_entry": ["LowRankInit('layers.0.weight', rank=2)"],
                        },
                        "high": {"like": "low", "on_entry": ["LowRankInit('layers.0.weight', rank=64)"]},
                    },
                },
                paper_scale="recurrent networks of 300 units; three cognitive tasks, sequential digits",
            ),
            Claim(
                "It still is where each start has the best of six rates.",
                {
                    "workload": "digits_mlp",
                    "compare": {
                        "baseline": "low",
                        "metric": "loss",
                        "better": "lower",
                        "margin": 0.02,
                        "seeds": 12,
                        "trials": 6,
                    },
                    "tune": {"*.lr.peak": "times(1/4, 4)"},
                    "arms": {
                        "low": {
                            "optimizer": "SGD(lr=Linear(0.5))",
                            "batch_size": 32,
                            "budget": "100 steps",
                            "on_entry": ["LowRankInit('layers.0.weight', rank=2)"],
                        },
                        "high": {"like": "low", "on_entry": ["LowRankInit('layers.0.weight', rank=64)"]},
                    },
                },
                paper_scale="not in the paper",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.weight'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Nothing but a check that the patterns name matrices."""
        self._matrices(model)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Cut the spectra."""
        with torch.no_grad():
            for p in self._matrices(model):
                p.copy_(truncated(p.flatten(1), self.rank, self.norm).view_as(p))
        return TransformResult({name: name for name, _ in model.named_parameters()})

    def _matrices(self, model: nn.Module) -> list[Tensor]:
        """What matches and is a matrix, tied ones once."""
        named = matching(model, self.patterns)
        found = {id(p): p for p in named.values() if p.ndim >= 2}
        if not found:
            raise DeclarationError(
                f"got {list(self.patterns)}, which match no matrix but {', '.join(named)}; allowed here: "
                + (", ".join(name for name, p in model.named_parameters() if p.ndim >= 2) or "nothing"),
                "patterns",
            )
        return list(found.values())


def truncated(matrix: Tensor, rank: int, norm: Literal["frobenius", "spectral"] = "frobenius") -> Tensor:
    """Nearest matrix of a rank, scaled to the norm of the whole; computed in float64, of the matrix's type.

    Examples
    --------
    >>> truncated(torch.diag(torch.tensor([4.0, 3.0])), 1).abs().round(decimals=4).tolist()
    [[5.0, 0.0], [0.0, 0.0]]
    """
    if rank >= min(matrix.shape):
        return matrix
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = s[:rank]
    if norm == "frobenius" and kept[0] > 0.0:
        kept = kept * (s.norm() / kept.norm())
    return ((u[:, :rank] * kept) @ vh[:rank]).to(matrix.dtype)


def effective_rank(matrix: Tensor) -> float:
    """(sum of s)^2 / (sum of s^2) of the singular values s of a matrix: between 1 and its rank, 0 for zeros.

    Parameters
    ----------
    matrix : Tensor, shape (out, ...)
        Further axes are flattened.

    References
    ----------
    Y. H. Liu et al., 2024, arXiv:2310.08513.

    Examples
    --------
    >>> effective_rank(torch.eye(3)), effective_rank(torch.diag(torch.tensor([3.0, 1.0])))
    (3.0, 1.6)
    """
    s = torch.linalg.svdvals(matrix.detach().flatten(1).double())
    squares = s.square().sum().item()
    return s.sum().item() ** 2 / squares if squares > 0.0 else 0.0
