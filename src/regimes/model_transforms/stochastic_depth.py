"""Residual branches that are left out at random while training."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import ModelTransform
from regimes.core.registry import register
from regimes.model_transforms.patterns import matching_modules, outermost
from regimes.model_transforms.swapped import Swapped, put, take

Scaled = Literal["training", "evaluation"]


class StochasticBranch(Swapped):
    """In front of a module's class: what it returns survives at random; see `survived`."""

    branch_survival: float
    branch_scaled: Scaled

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the module, and drop."""
        out = super().forward(*args, **kwargs)
        if not isinstance(out, Tensor):
            raise DeclarationError(
                f"got a {type(out).__name__} from a {self.own.__name__}; allowed: modules that return a tensor",
                "patterns",
            )
        return survived(out, self.branch_survival, self.training, self.branch_scaled)

    def extra_repr(self) -> str:
        """What the module says of itself, and the survival."""
        return f"{super().extra_repr()}, survival={self.branch_survival:g}, scaled={self.branch_scaled!r}".lstrip(", ")


def survived(x: Tensor, survival: float, training: bool, scaled: Scaled = "training") -> Tensor:
    """Return a branch's output, kept or dropped example by example.

    Parameters
    ----------
    x : Tensor, shape (n, ...)
    survival : float
        Probability p with which an example keeps the branch, in (0, 1].
    training : bool
        Whether something is dropped.
    scaled : "training" or "evaluation"
        When the output is scaled so that training and evaluation agree in the mean: by 1 / p in training, or by p in
        evaluation.

    Examples
    --------
    >>> torch.ones(2, 3), survived(torch.ones(2, 3), 0.75, training=False, scaled="evaluation")[0]
    (tensor([[1., 1., 1.],
            [1., 1., 1.]]), tensor([0.7500, 0.7500, 0.7500]))
    """
    if not training:
        return x if scaled == "training" else survival * x
    # By dropout, whose draws are addressed, and made for every replica of a stack.
    each = torch.ones(len(x), *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device)
    mask = functional.dropout(each, 1.0 - survival)
    return x * (mask if scaled == "training" else mask.ne(0))


@register
class StochasticDepth(ModelTransform):
    r"""Leave residual branches out at random while training, the later ones more often.

    The l-th of L branches f_l, whose output is added to the stream, is kept for each example with the probability

    .. math:: p_l = 1 - \frac{l}{L} (1 - p_L)

    With b from Bernoulli(p_l), the stream h becomes h + (b / p_l) f_l(h) in training and h + f_l(h) in evaluation; scaled in
    evaluation (Huang et al.), h + b f_l(h) and h + p_l f_l(h). From this phase on, until another `StochasticDepth` (one of
    survival 1 ends it). Names and values of weights stay.

    Parameters
    ----------
    survival : float
        p_L, of the last branch, in (0, 1]. Default 0.8 (Huang et al. have 0.5, ResNet-RS 0.8 to 1 by size).
    patterns : tuple of str
        Patterns of the names of modules that are branches, counted in model order; of those that lie in one another the
        outermost counts. What matches has to return a tensor that is added to the stream. Default "\*.attention" and
        "\*.mlp", those of the built-in transformers.
    scaled : "training" or "evaluation"
        Default "training", as ResNet-RS and torchvision: then what a network says in evaluation is the same with and
        without this.

    Raises
    ------
    DeclarationError
        If there is no pattern, or one matches no module; in a forward, if what matches returns no tensor.

    Notes
    -----
    A branch that is left out is computed all the same: other examples of the batch keep it. A batch norm inside it sees
    all examples.

    References
    ----------
    G. Huang, Y. Sun, Z. Liu, D. Sedra and K. Weinberger, Deep Networks with Stochastic Depth, ECCV 2016, arXiv:1603.09382;
    I. Bello et al., Revisiting ResNets: Improved Training and Scaling Strategies, NeurIPS 2021, arXiv:2103.07579.

    Examples
    --------
    >>> net = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("f1", "f2")})
    >>> StochasticDepth(0.5, "f*").structure(net)["f1"]
    StochasticBranchLinear(in_features=2, out_features=2, bias=True, survival=0.75, scaled='training')
    """

    survival: float = fixed(0.8, above=0, high=1)
    patterns: tuple[str, ...] = fixed(("*.attention", "*.mlp"))
    scaled: Scaled = fixed("training")

    keeps_values = True
    card = Card(
        title="Residual branches left out at random",
        axes=("regime",),
        source="Huang et al. 2016, arXiv:1603.09382; Bello et al. 2021, arXiv:2103.07579",
        when="A deep residual network overfits, or is trained for long.",
        cost="nothing that counts; nothing is saved either",
        shelf="atlas",
        rows=("resnet-rs",),
        defaults={
            "survival": "0.8, the least of ResNet-RS",
            "patterns": "the branches of the built-in transformers",
            "scaled": "training, ResNet-RS",
        },
        deviations=(
            "Branches that are left out are computed: Huang et al. leave one out for a whole batch, and save its time.",
            "The first branch may be left out too (1 - p_L over L); ResNet-RS counts stages, each block of one alike.",
        ),
    )

    @classmethod
    def example(cls) -> list[StochasticDepth]:
        """A layer of the conformance suite's model, and the branches of its transformer."""
        return [cls(0.5, ("2",)), cls(0.5, ("0", "2"), "evaluation"), cls(0.6)]

    def validate(self) -> None:
        """Refuse an empty list."""
        if not self.patterns:
            raise DeclarationError("got no pattern; allowed: one or more, for example '*.mlp'", "patterns")

    def structure(self, model: nn.Module) -> nn.Module:
        """Take away what an earlier one has put there, and put a survival on every branch."""
        take(model, StochasticBranch, "branch_survival", "branch_scaled")
        places = outermost(matching_modules(model, self.patterns))
        for number, name in enumerate(places, start=1):
            survival = 1.0 - number / len(places) * (1.0 - self.survival)
            if survival < 1.0:
                branch = model.get_submodule(name)
                put(branch, StochasticBranch, branch_survival=survival, branch_scaled=self.scaled)
        return model
