"""How far is the network from where it began: in weights, in representation, in its tangent kernel?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.registry import register
from regimes.probes.base import ViewProbe
from regimes.probes.norms import norm
from regimes.probes.spectrum import Token, as_rows, listening
from regimes.probes.view import View

#: Rows of the Jacobian in one batched backward.
_ROWS = 64


@register
class Laziness(ViewProbe):
    r"""Change of weights, alignment of representations and of tangent kernels between step 0 and now.

    With the weights theta, the Gram matrix G = H^T H of the features H (columns: examples), the Jacobian J of the
    outputs of all examples with respect to the trained parameters and K = J J^T, at step 0 and now (T)

    .. math::
        \frac{\lVert \theta_T - \theta_0 \rVert}{\lVert \theta_0 \rVert}, \qquad
        RA = \frac{\operatorname{tr}(G_T G_0)}{\lVert G_T \rVert \lVert G_0 \rVert}, \qquad
        KA = \frac{\operatorname{tr}(K_T K_0)}{\lVert K_T \rVert \lVert K_0 \rVert}

    Near 0, 1 and 1 learning is lazy: the network has stayed the linear model that it was at step 0. The farther from
    these, the richer. Step 0 is after the transforms on entry to the first phase.

    Dropout is off, and batch norm uses each network's own statistics of the probe examples: running statistics are not
    what either network was trained with at step 0.

    Values: ``weight_change`` (over all parameters), ``representation_alignment`` and ``kernel_alignment``, not a number
    where a matrix is zero.

    Parameters
    ----------
    examples : int
        Training examples, always the same. Default 16. In a loop of one's own it is the batch that is given.
    outputs : int
        Most outputs of each example in K, evenly spaced; of sequences those of the `token`. Default 10.
    module : str or None
        Whose output H is. None: what goes into the last layer with parameters, the head.
    token : int or "mean"
        Which token of a sequence, counted from the end where negative, or their mean. Default -1.
    every : Duration
        Cadence. Default 5% of the phase.

    Raises
    ------
    DeclarationError
        If the weights at step 0 are not given, or are not those of this model because its structure has changed since;
        if there is no such module or token, or features or outputs are no tensors.

    References
    ----------
    Y. H. Liu, A. Baratin, J. Cornford, S. Mihalas, E. Shea-Brown and G. Lajoie, How connectivity structure shapes rich
    and lazy learning in neural circuits, ICLR 2024, arXiv:2310.08513; L. Chizat, E. Oyallon and F. Bach, On Lazy
    Training in Differentiable Programming, NeurIPS 2019, arXiv:1812.07956; T. George, G. Lajoie and A. Baratin, Lazy vs
    hasty, 2022, arXiv:2209.09658.

    Examples
    --------
    A linear model is lazy however far its weights go.

    >>> model, x = nn.Linear(2, 1), torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    >>> initial = {name: p.detach() / 3 for name, p in model.named_parameters()}
    >>> found = Laziness()(model, lambda m, x: m(x).mean(), x, initial=initial)
    >>> {name: round(v, 4) for name, v in found.items()}
    {'weight_change': 2.0, 'representation_alignment': 1.0, 'kernel_alignment': 1.0}
    """

    examples: int = fixed(16, low=1)
    outputs: int = fixed(10, low=1)
    module: str | None = fixed(None)
    token: Token = fixed(-1)

    wants_initial = True

    card = Card(
        title="Distance from step 0: weights, features, tangent kernel",
        axes=("regime",),
        source="Liu et al. 2024, arXiv:2310.08513",
        when="Does the network learn features, or only a readout of those it began with? It only looks, so there is no "
        "claim to re-test.",
        cost="twice as many backwards as examples * outputs (160), which many times the parameters in memory",
        shelf="atlas",
        rows=("rich-lazy-connectivity",),
        deviations=(
            "The change of weights is relative to their norm at step 0, and over all parameters; the paper's is of the "
            "recurrent weights, absolute.",
            "K is of all trained parameters, and of at most `outputs` outputs; the paper's is of the recurrent weights.",
        ),
    )

    def measure(self, view: View) -> dict[str, float]:
        """Return the change of the weights and both alignments."""
        model = view.model
        now = {name: p.detach() for name, p in model.named_parameters()}
        before = _fitting(view.initial, now)
        evaluate_with_own_statistics(model)
        args, named = forward_inputs(view, view.fixed(self.examples))
        gram, kernel = [], []
        for weights in (before, now):
            with torch.no_grad(), listening(model, self.module) as last:
                functional_call(model, weights, args, named)
            features = as_rows(last(), self.token)
            gram.append(features @ features.T)
            kernel.append(tangent_kernel(model, weights, list(view.parameters), args, named, self.outputs, self.token))
        size = norm(before.values())
        moved = norm(now[name] - before[name] for name in now)
        return {
            "weight_change": moved / size if size > 0.0 else math.inf if moved > 0.0 else 0.0,
            "representation_alignment": alignment(*gram),
            "kernel_alignment": alignment(*kernel),
        }


def _fitting(initial: Mapping[str, Tensor] | None, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights at step 0 of every parameter that there is now."""
    if initial is None:
        raise DeclarationError("needs a value: the weights at step 0, by parameter name", "initial")
    for name, p in now.items():
        if name not in initial or initial[name].shape != p.shape:
            had = f"of shape {tuple(initial[name].shape)}" if name in initial else "absent"
            raise DeclarationError(
                f"got weights in which '{name}' is {had}, but now it has the shape {tuple(p.shape)}; allowed: those of a "
                "model with the structure of this one",
                "initial",
            )
    return {name: initial[name].detach() for name in now}


def evaluate_with_own_statistics(model: nn.Module) -> None:
    """Evaluation mode, in which batch norm takes the statistics of the batch and writes none."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean = module.running_var = None


def forward_inputs(view: View, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the loss function gives the model of a batch."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = view.model.register_forward_pre_hook(
        lambda module, args, named: seen.append((args, dict(named))), with_kwargs=True
    )
    try:
        with torch.no_grad():
            view.losses(batch)
    finally:
        hook.remove()
    if not seen:
        raise DeclarationError("does not call the model itself; allowed: one that does", "loss_fn")
    return seen[-1]


def tangent_kernel(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    trained: Sequence[str],
    args: tuple[Any, ...],
    named: Mapping[str, Any],
    outputs: int,
    token: Token = -1,
) -> Tensor:
    """K = J J^T of a model at some weights, in float64.

    Parameters
    ----------
    model : nn.Module
        In the mode in which its outputs are meant.
    weights : mapping of str to Tensor
        All parameters by name.
    trained : sequence of str
        Those that J is with respect to.
    args, named
        Inputs of n examples.
    outputs : int
        Most outputs k of each example, evenly spaced.
    token : int or "mean"
        Of a sequence, whose outputs.

    Returns
    -------
    Tensor, shape (n k, n k)
        Outputs of one example are neighbours.

    Examples
    --------
    >>> model = nn.Linear(2, 1, bias=False)
    >>> weights = dict(model.named_parameters())
    >>> tangent_kernel(model, weights, ["weight"], (torch.tensor([[1.0, 0.0], [1.0, 2.0]]),), {}, outputs=1).tolist()
    [[1.0, 1.0], [1.0, 5.0]]
    """
    fixed_weights = {name: p.detach() for name, p in weights.items()}

    def flat(inner: dict[str, Tensor]) -> Tensor:
        rows = as_rows(functional_call(model, fixed_weights | inner, args, dict(named)), token)
        width = rows.shape[1]
        most = min(outputs, width)
        return rows[:, [i * width // most for i in range(most)]].reshape(-1)

    # Fused attention has no batched backward; torch's plain form has.
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = jacrev(flat, chunk_size=_ROWS)({name: fixed_weights[name] for name in trained})
    blocks = (piece.flatten(1).double() for piece in jacobian.values())
    return torch.stack([block @ block.T for block in blocks]).sum(0)


def alignment(a: Tensor, b: Tensor) -> float:
    """tr(a b) / (||a|| ||b||) of symmetric matrices; not a number where one is zero.

    Examples
    --------
    >>> round(alignment(torch.eye(2), torch.diag(torch.tensor([1.0, 0.0]))), 6)
    0.707107
    """
    size = (a.norm() * b.norm()).item()
    return (a * b).sum().item() / size if size > 0.0 else math.nan
