"""GPTQ: weights on a grid, layer after layer, with as little change of each layer's output as can be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from regimes.core.card import Card, Claim
from regimes.core.component import fixed
from regimes.core.kinds import ModelTransform, TransformResult
from regimes.core.notice import notice
from regimes.core.randomness import Streams
from regimes.core.registry import register
from regimes.losses.forward import evaluating, examples_in, split
from regimes.model_transforms.quantize import gptq_from_hessian, hessian, round_to_nearest
from regimes.model_transforms.round_to_nearest import name_what_stays, quantizable, refuse_no_pattern
from regimes.optimizers.layers import Layer

#: Positional and named inputs of the model.
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


_PAPER = "OPT and BLOOM up to 175B parameters, 3 and 4 bits"
_errors = {"seeds": 8, "margin": 0.5146, "scale": "digits_mlp, 4,810 parameters, 256 calibration examples, log2"}


@register
class GPTQ(ModelTransform):
    r"""Quantize layers to `bits` bits by second-order updates from calibration inputs.

    For each layer with weight W (out, in), in the order of their calls, the inputs X (rows, in) that it sees of the
    calibration examples, with the layers before it quantized already, give H = 2 X^T X, and
    `regimes.model_transforms.quantize.gptq_from_hessian` the weights Q on the grid for which ||W X^T - Q X^T||^2 is
    small. The model runs in evaluation mode meanwhile. A layer that no calibration input reaches (of experts, one that
    the router never chose) is rounded to the nearest, and named in a warning; so is a matrix that the patterns match and
    that belongs to no layer (an embedding, tied weights, attention's joint projection), which stays as it is.

    Parameters
    ----------
    patterns : tuple of str
        Patterns of parameter names: what they match of linear layers' and convolutions' weights is quantized.
    bits : int
        2^bits values for each row. Default 4 (paper: 3 and 4).
    group : int or None
        Columns that share a grid; None: the row (paper).
    damp : float
        Added to H's diagonal, as a share of its mean. Default 0.01 (paper).
    order : bool
        Take columns by falling H_jj instead of from left to right.
    examples : int
        Calibration examples, drawn uniformly from the training data. Default 128 (paper, of 2,048 tokens each).

    Raises
    ------
    DeclarationError
        If there is no pattern, one matches nothing, no layer's weight is among what they match, or a batch does not
        say which part of it is the target.

    References
    ----------
    E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, GPTQ: Accurate Post-Training Quantization for Generative
    Pre-trained Transformers, ICLR 2023, arXiv:2210.17323.

    Examples
    --------
    >>> net, x = nn.Sequential(nn.Linear(9, 2), nn.Linear(2, 2)), torch.randn(64, 9)
    >>> _ = GPTQ("0.*", bits=2).fill(net, net, iter([(x, x), (x, x)]), Streams(0))
    >>> [len(row.unique()) <= 4 for row in net[0].weight]
    [True, True]
    """

    patterns: tuple[str, ...] = fixed()
    bits: int = fixed(4, low=1, high=16)
    group: int | None = fixed(None, low=1)
    damp: float = fixed(0.01, above=0)
    order: bool = fixed(False)
    examples: int = fixed(128, low=1)

    card = Card(
        title="Second-order quantization after training",
        axes=("phases",),
        source="Frantar et al. 2023, arXiv:2210.17323",
        when="Four bits and fewer, without training again.",
        cost="one pass over the calibration examples and one inverse of (in, in) per layer",
        shelf="atlas",
        rows=("gptq",),
        defaults={"bits": "4, the paper's", "damp": "0.01, the paper's", "examples": "128, the paper's"},
        deviations=(
            "Values lie on the grid but are stored as before: nothing is packed, and no faster kernel is called.",
            "A group's grid knows all errors made before it, whatever the block size.",
            "The calibration passes are not charged as work.",
            "A layer that sees no calibration input, or zeros alone, is rounded to the nearest.",
        ),
        claims=(
            Claim(
                "A network rounded to two bits is right more often than by rounding to nearest on the same grid.",
                {
                    "workload": "digits_mlp",
                    "compare": {
                        "baseline": "nearest",
                        "metric": "acc",
                        "better": "higher",
                        "margin": 0.01,
                        "seeds": 12,
                    },
                    "arms": {
                        "nearest": {
                            "batch_size": 32,
                            "phases": [
                                {
                                    "name": "train",
                                    "budget": "400 steps",
                                    "optimizer": "SGD(lr=Cosine(0.15), momentum=0.9)",
                                },
                                {
                                    "name": "quantized",
                                    "budget": "1 steps",
                                    "optimizer": "SGD(lr=0.0)",
                                    "on_entry": ["RoundToNearest('*.weight', bits=2)"],
                                },
                            ],
                        },
                        "gptq": {
                            "like": "nearest",
                            "quantized.on_entry": ["GPTQ('*.weight', bits=2, examples=256)"],
                        },
                    },
                },
                paper_scale=_PAPER,
            ),
            Claim(
                "The layers' output error at 2 bits is at most 0.7 of that by rounding to nearest.",
                _errors,
                paper_scale=_PAPER,
                measure="regimes.claims.quantization:two_bits",
            ),
            Claim(
                "So it is at 3 bits.",
                _errors,
                paper_scale=_PAPER,
                measure="regimes.claims.quantization:three_bits",
            ),
        ),
    )

    def validate(self) -> None:
        """Refuse an empty list."""
        refuse_no_pattern(self.patterns)

    def structure(self, model: nn.Module) -> nn.Module:
        """Nothing but a check that the patterns name layers."""
        quantizable(model, self.patterns)
        return model

    def fill(self, model: nn.Module, before: nn.Module, batches: Any, streams: Streams) -> TransformResult:
        """Quantize the layers in the order of their calls, those never called at the end."""
        layers = {model.get_submodule(layer.module): layer for layer in quantizable(model, self.patterns)}
        calibration, unseen = list(_first(batches, self.examples)), []
        with torch.no_grad(), _replayed(model, streams.seed32("calibration")) as forward:
            called = _calls(layers, forward, calibration)
            for module in [*called, *(module for module in layers if module not in called)]:
                H = _seen(module, layers[module], forward, calibration) if module in called else None
                unseen += [layers[module].weight] if H is None else []
                weight = model.get_parameter(layers[module].weight)
                weight.copy_(self._quantized(weight.flatten(1), H).reshape(weight.shape))
        if unseen:
            notice(
                f"GPTQ has rounded {', '.join(unseen)} to the nearest: no calibration example gives the layer's own "
                "forward an input other than 0."
            )
        name_what_stays("GPTQ", model, self.patterns)
        return TransformResult({name: name for name, _ in model.named_parameters()})

    def _quantized(self, W: Tensor, H: Tensor | None) -> Tensor:
        if H is None:
            return round_to_nearest(W, self.bits, self.group)
        return gptq_from_hessian(W, H, self.bits, group=self.group, damp=self.damp, order=self.order)


def _first(batches: Iterator[Any], examples: int) -> Iterator[Inputs]:
    """Inputs of the first `examples` examples, the last batch cut."""
    left = examples
    while left > 0:
        batch = next(batches, None)
        if batch is None:
            return
        args, kwargs, _ = split(batch)
        size = examples_in(batch)

        def cut(part: Any, size: int = size, left: int = left) -> Any:
            return part[:left] if isinstance(part, Tensor) and part.ndim and len(part) == size else part

        yield tuple(cut(part) for part in args), {name: cut(part) for name, part in kwargs.items()}
        left -= size


@contextlib.contextmanager
def _replayed(model: nn.Module, seed: int) -> Iterator[Any]:
    """Inside, the model is in evaluation mode, and each pass over inputs draws the same random numbers."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}

    def forward(inputs: list[Inputs]) -> None:
        torch.manual_seed(seed)
        for args, kwargs in inputs:
            model(*args, **kwargs)

    with evaluating(model), torch.random.fork_rng(devices=devices):
        yield forward


def _calls(layers: dict[nn.Module, Layer], forward: Any, inputs: list[Inputs]) -> list[nn.Module]:
    """The modules of these layers that any forward calls, in the order of their first calls.

    What only a later batch calls stands where that batch calls it: behind what it calls before.
    """
    order: list[nn.Module] = []
    for one in inputs:
        called: dict[nn.Module, None] = {}

        def note(module: nn.Module, args: Any, called: dict[nn.Module, None] = called) -> None:
            called.setdefault(module)

        _through(forward, [one], [module.register_forward_pre_hook(note) for module in layers])
        place = 0
        for module in called:
            if module not in order:
                order.insert(place, module)
            place = max(place, order.index(module) + 1)
    return order


def _seen(module: nn.Module, layer: Layer, forward: Any, inputs: list[Inputs]) -> Tensor | None:
    """H of what the module is called with; None where that is nothing (no rows) or zeros alone."""
    found: list[Tensor] = []

    def add(module: nn.Module, args: Any, kwargs: Any) -> None:
        H = hessian(layer.inputs(next(iter((*args, *kwargs.values())))))
        found[:] = [H + found[0]] if found else [H]

    _through(forward, inputs, [module.register_forward_pre_hook(add, with_kwargs=True)])
    return found[0] if found and bool(found[0].any()) else None


def _through(forward: Any, inputs: list[Inputs], handles: list[Any]) -> None:
    try:
        forward(inputs)
    finally:
        for handle in handles:
            handle.remove()
