"""Conda: Adam in the frame of the momentum's singular vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.kinds import Knob
from regimes.core.registry import register
from regimes.optimizers.orthogonal.frames import into_frame, out_of_frame, smaller_basis
from regimes.optimizers.tensorwise.rule import Tensorwise


@register
class Conda(Tensorwise):
    r"""Adam whose second moment is kept, and divided by, along the singular vectors of the momentum.

    For a weight of shape (A, B) (a convolution's kernel counts as (out, in * height * width)) with gradient g_t, betas
    (beta_1, beta_2) and weight decay lambda; where A >= B, with Q the singular vectors V of m_t on update 1 and on every
    `every`-th after it

    .. math::
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) (g_t Q)^2 \\
        \theta &\leftarrow \theta - \text{lr}\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\;
            s\, \frac{m_t Q}{\sqrt{v_t} + \epsilon}\, Q^\top \\
        \theta &\leftarrow (1 - \text{lr}\,\lambda)\, \theta

    and where A < B the same from the left, with U. A new Q leaves v as it is. Vectors and numbers have no Q and no s:
    they are Adam's.

    Parameters
    ----------
    lr : knob
        Learning rate. Default 1e-3, the authors' code; they train LLaMA at 0.01 and GPT-2 at 0.006, with s = 0.25.
    betas : two knobs
        Default (0.9, 0.999), the authors' code; they train with 0.99 for the second.
    eps : knob
        epsilon, which no bias correction touches. Default 1e-8, the authors' code.
    weight_decay : knob
        lambda, multiplied by the learning rate. Default 0, the authors' code.
    every : int
        Updates from one Q to the next (``update_proj_gap`` in the authors' code). Default 2000, theirs.
    scale : knob
        s: the rate of matrices over that of vectors. Default 1, the authors' code.

    Notes
    -----
    The authors give embeddings and head to plain Adam, as they do vectors: ``rg.groups.muon(Conda(...),
    rest=AdamW(...))``. Where singular values are equal, as of a gradient of zero, Q is any of several.

    References
    ----------
    J. Wang et al., Conda: Column-Normalized Adam for Training Large Language Models Faster,
    2025, arXiv:2509.24218; code: https://github.com/jie040109/Conda.

    Examples
    --------
    >>> p = torch.zeros(3, 2); rule = Conda(lr=0.1); slot = rule.slots(p)
    >>> rule.update(p, torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]), slot, 1)
    >>> [round(s, 4) for s in torch.linalg.svdvals(p).tolist()]  # of AdamW's first step: 0.2449, 0
    [0.2, 0.1414]
    """

    lr: Knob = knob(1e-3, low=0)
    betas: tuple[Knob, Knob] = knob((0.9, 0.999), low=0, below=1)
    eps: Knob = knob(1e-8, above=0)
    weight_decay: Knob = knob(0.0, low=0)
    every: int = fixed(2000, low=1)
    scale: Knob = knob(1.0, low=0)

    card = Card(
        title="Adam along the singular vectors of the momentum",
        axes=("rates",),
        source="Wang et al. 2025, arXiv:2509.24218",
        when="Matrices of transformers, with AdamW for the rest: groups.muon(Conda(...), rest=AdamW(...)).",
        cost="two slots and a square matrix of the smaller side per weight; three products a step, an SVD now and then",
        shelf="atlas",
        rows=("conda",),
        defaults={
            "lr": "1e-3, authors' code",
            "betas": "(0.9, 0.999), authors' code",
            "eps": "1e-8, authors' code",
            "every": "2000, authors' code and training",
            "scale": "1, authors' code (0.25 in their training)",
        },
        deviations=(
            "Q is always that of the smaller side; the authors' code can be told another, or both.",
            "Convolutions are flattened matrices; the authors' code takes matrices alone.",
            "Decompositions are in the weights' precision, float32 at least; the authors' are always in float32.",
        ),
        claims=(
            Claim(
                "It takes at most 0.85 of the steps that AdamW takes to AdamW's final loss, each at the best of five rates, "
                "with a new frame every 50 steps.",
                {
                    "seeds": 6,
                    "margin": 0.2345,
                    "scale": "char_lm of width 32, 28,672 parameters, 600 steps, log2 of steps",
                },
                paper_scale="LLaMA of 60 M to 1 B parameters: 0.4 to 0.5 of the steps",
                measure="regimes.claims.orthogonal:conda_steps",
            ),
            Claim(
                "The stable rank of its update is at least twice that of AdamW's, at the same rate.",
                {"seeds": 6, "margin": 1.0, "scale": "char_lm of width 32, 40,960 parameters, 300 steps, log2"},
                paper_scale="LLaMA and GPT-2, in words: better conditioned",
                measure="regimes.claims.orthogonal:stable_rank",
            ),
        ),
    )

    def slots(self, p: Tensor) -> dict[str, Any]:
        """The two moments, zero; of matrices and kernels the second as a matrix, and Q inside ``frame``."""
        if p.ndim < 2:
            return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        dtype = torch.promote_types(p.dtype, torch.float32)
        matrix = torch.zeros(p.flatten(1).shape, dtype=dtype, device=p.device)
        basis = torch.eye(min(matrix.shape), dtype=dtype, device=p.device)
        # Inside a dict of its own, so that no change of the model's width repeats rows of an orthogonal matrix.
        return {"exp_avg": torch.zeros_like(p), "exp_avg_sq": matrix, "frame": {"basis": basis}}

    def update(self, p: Tensor, g: Tensor, slot: dict[str, Any], t: int) -> None:
        """Apply the formula above."""
        m, v = slot["exp_avg"], slot["exp_avg_sq"]
        m.lerp_(g, 1.0 - self.betas[0])
        step = self._direction(g, m, v) if p.ndim < 2 else self._rotated(g, slot, t).reshape(p.shape)
        size = math.sqrt(1.0 - self.betas[1] ** t) / (1.0 - self.betas[0] ** t)
        p.add_(step, alpha=-self.lr * size)
        if self.weight_decay != 0.0:
            p.mul_(1.0 - self.lr * self.weight_decay)

    def _rotated(self, g: Tensor, slot: dict[str, Any], t: int) -> Tensor:
        """The direction of a matrix, shape (A, B)."""
        v, frame = slot["exp_avg_sq"], slot["frame"]
        g, m = (x.reshape(v.shape).to(v.dtype) for x in (g, slot["exp_avg"]))
        if (t - 1) % self.every == 0 or len(frame["basis"]) != min(v.shape):
            frame["basis"] = smaller_basis(m)
        q = frame["basis"]
        return out_of_frame(self._direction(into_frame(g, q), into_frame(m, q), v), q).mul_(self.scale)

    def _direction(self, g: Tensor, m: Tensor, v: Tensor) -> Tensor:
        """Move v, and return m / (sqrt(v) + eps)."""
        v.mul_(self.betas[1]).addcmul_(g, g, value=1.0 - self.betas[1])
        return m / v.sqrt().add_(self.eps)
