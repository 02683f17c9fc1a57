"""Parameter groups whose rates follow the width of a network, and the table of what they follow."""

from __future__ import annotations

import fnmatch
import glob
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from regimes.core.errors import DeclarationError, show
from regimes.core.kinds import Optimizer
from regimes.model_transforms.growth import RATES, base_of, first_values, growth
from regimes.optimizers.foreign.rule import Foreign
from regimes.optimizers.groups import Group, Groups, Owned, roles_of
from regimes.optimizers.tensorwise.sgd import SGD
from regimes.scaling.families import decays_apart, family_of, known, option

Like = Literal["sgd", "adaptive"]
Parametrization = Literal["mup", "ntk"]


def mup(
    rule: Optimizer,
    model: nn.Module,
    base: nn.Module | int,
    *,
    like: Like | None = None,
    parametrization: Parametrization = "mup",
    depth: float = 1.0,
    blocks: str | None = None,
) -> Groups:
    r"""Return groups in which a rate that was tuned on a narrow network holds for a wide one.

    With r_in and r_out how many times as long as in the base are the axes that a parameter reads and writes (1 where they
    do not grow; a vector writes), the rule's rate is the base's, and each parameter learns at it times

    .. math::
        \text{SGD: } r_\text{out} / r_\text{in}, \qquad \text{Adam: } 1 / r_\text{in}

    which is table 3 of the paper relative to a base: of input weights, biases and gains r_out and 1, of hidden weights 1
    and 1 / r_in, of output weights 1 / r_in and 1 / r_in. Weight decay is divided by the same, so that what a step takes
    off a weight (lr times decay) stays. The other half is the start: `MuPInit` with the same base, in ``on_entry``. At the
    base's own width both change nothing.

    Parameters
    ----------
    rule : Optimizer
        With an ``lr``; or Groups of such rules (``no_decay(AdamW(...))``), each of whose groups is parted.
    model : Module
        The network to be trained; of it only shapes are read.
    base : Module or int
        The same layers under the same names in another width, on which the rate was tuned; or that width, for a model that
        has ``grown(width)``.
    like : "sgd" or "adaptive", optional
        For rules that are not known: whether entries of a step follow those of the gradient in proportion, or not at all.
        Known are those of the families "sgd", "adaptive" and "sign" in `regimes.scaling.families`, of other packages too.
    parametrization : "mup" or "ntk"
        "ntk": the neural tangent parametrization, the other arm of a comparison: SGD 1 / r_in, Adam r_in^(-1/2).
    depth : float
        How many times as many residual blocks as the base has, for a model that multiplies each branch by L^(-1/2): rates
        in `blocks` are multiplied by depth^(-1/2) for Adam, and stay for SGD (Yang et al. 2023). Default 1.
    blocks : str, optional
        What is in the branches: patterns of names, as in `Group`. Needed with a depth.

    Notes
    -----
    What is no matter of rates stays with the model: attention whose heads grow wants q.k / d instead of q.k / sqrt(d), and
    epsilon of Adam has to be small against gradients, which shrink as 1 / width.

    What stands against 2 / lr here is the largest eigenvalue of D^(1/2) H D^(1/2), with D the factors, not that of H.

    Raises
    ------
    DeclarationError
        If the rule has no rate, is of no known family or of one that has no factors here (Muon, LAMB), decays through
        Adam's moments, holds another rule, base and model are not of one form, nothing says which axis is which, or a depth
        stands without blocks.

    References
    ----------
    G. Yang, E. Hu et al., Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer, 2022,
    arXiv:2203.03466, table 3; G. Yang, D. Yu, C. Zhu and S. Hayou, Tensor Programs VI: Feature Learning in Infinite-Depth
    Neural Networks, 2023, arXiv:2310.02244; L. Noci, A. Meterez, T. Hofmann and A. Orvieto, Why do Learning Rates Transfer?
    Reconciling Optimization and Scaling Limits for Deep Learning, 2024, arXiv:2402.17457.

    Examples
    --------
    >>> from regimes.optimizers import SGD, AdamW
    >>> from regimes.workloads.models import MLP
    >>> mup(SGD(lr=0.1), MLP((64, 256, 256, 10)), base=64)  # doctest: +NORMALIZE_WHITESPACE
    Groups([Group('layers.0.weight|layers.0.bias|layers.1.bias', rule=SGD(lr=0.4)),
            Group('layers.2.weight', rule=SGD(lr=0.025)),
            Group('*', rule=SGD(lr=0.1))])
    >>> mup(AdamW(lr=0.01, weight_decay=0.1), MLP((64, 256, 256, 10)), base=64)  # doctest: +NORMALIZE_WHITESPACE
    Groups([Group('layers.1.weight|layers.2.weight', rule=AdamW(lr=0.0025, weight_decay=0.4)),
            Group('*', rule=AdamW(lr=0.01, weight_decay=0.1))])
    """
    _check(parametrization, depth, blocks)
    grown, deep = growth(model, base), _inside(model, blocks)
    trained = Owned({name: p for name, p in model.named_parameters() if p.requires_grad})
    groups, left = list[Group](), list(trained)
    for match, one, owned in _leaves(rule, trained, roles_of(model)):
        family = _family(one, like)
        factors = {
            name: grown[name].rate(family, parametrization) * (depth**-0.5 if name in deep and family != "sgd" else 1.0)
            for name in owned
        }
        groups += _parted(match, one, factors, left)
        left = [name for name in left if name not in owned]
    return Groups(tuple(groups))


def _check(parametrization: str, depth: float, blocks: str | None) -> None:
    if parametrization not in RATES:
        raise DeclarationError(f"got {show(parametrization)}; allowed: 'mup' or 'ntk'", "parametrization")
    if not isinstance(depth, int | float) or isinstance(depth, bool) or not 0.0 < depth < math.inf:
        raise DeclarationError(f"got {show(depth)}; allowed: a number above 0", "depth")
    if (blocks is None) != (depth == 1.0):
        raise DeclarationError(
            f"got depth={depth:g} and blocks={show(blocks)}; allowed: both, as rates inside residual branches follow the "
            "depth, or neither",
            "depth",
        )
    if depth != 1.0 and parametrization == "ntk":
        raise DeclarationError("got a depth with 'ntk', whose rates it does not say; allowed: 'mup'", "depth")


def _inside(model: nn.Module, blocks: str | None) -> set[str]:
    if blocks is None:
        return set()
    group, roles = Group(blocks, SGD()), roles_of(model)  # a match needs a rule beside it
    found = {name for name, p in model.named_parameters() if group.fits(name, p, roles)}
    if not found:
        raise DeclarationError(f"got '{blocks}', which matches no parameter", "blocks")
    return found


def _leaves(
    rule: Optimizer, owned: Owned, roles: Mapping[str, str]
) -> Iterator[tuple[str, Optimizer, Mapping[str, Tensor]]]:
    """Every rule that updates parameters, with what it owns."""
    if isinstance(rule, Groups):
        for group, own in zip(rule.groups, rule.assign(owned, roles)):
            if isinstance(group.rule, Groups):
                raise DeclarationError("got groups inside groups; allowed: one list of them", "rule")
            yield group.match, group.rule, own
        return
    yield "*", rule, owned


def _family(rule: Optimizer, like: str | None) -> str:
    inside = next((part for _, part in rule.parts() if isinstance(part, Optimizer)), None)
    if inside is not None:
        raise DeclarationError(
            f"got {show(rule)}; allowed: the rule inside, with {type(rule).__name__} around the groups", "rule"
        )
    if option(rule, "lr") is None:
        raise DeclarationError(f"got {show(rule)}, which has no lr", "rule")
    if like not in (None, "sgd", "adaptive"):
        raise DeclarationError(f"got {show(like)}; allowed: 'sgd' or 'adaptive'", "like")
    family = family_of(rule) or like
    if family is None:
        raise DeclarationError(
            f"got {show(rule)}, of whose steps nothing is known here; allowed: {known(*_PARTED)}, or like='sgd' where the "
            "entries of a step follow those of the gradient, like='adaptive' where each is about the rate",
            "rule",
        )
    if family not in _PARTED:
        raise DeclarationError(
            f"got {show(rule)}, of the family '{family}', whose steps follow the width in another way; allowed: "
            f"{known(*_PARTED)}",
            "rule",
        )
    if family != "sgd" and isinstance(rule, Foreign) and option(rule, "weight_decay") and not decays_apart(rule):
        raise DeclarationError(
            f"got {show(rule)}, whose decay is not the rate times weight_decay; allowed: no decay, or AdamW's", "rule"
        )
    return family


#: Families of which the paper's table 3 says by what to multiply the rate of each parameter.
_PARTED = tuple(RATES["mup"])


def _parted(match: str, rule: Optimizer, factors: Mapping[str, float], rest: list[str]) -> Iterator[Group]:
    """Groups of one factor each; the last is the rule's own, and takes what the others leave."""
    classes: dict[float, list[str]] = {}
    for name, factor in factors.items():
        classes.setdefault(factor, []).append(name)
    order = sorted(classes, key=lambda factor: (factor == 1.0, -factor))
    left = list(rest)
    for factor in order[:-1]:
        yield Group("|".join(_patterns(classes[factor], left)), _scaled(rule, factor))
        left = [name for name in left if name not in classes[factor]]
    for factor in order[-1:]:
        yield Group(match, _scaled(rule, factor))


def _patterns(names: list[str], rest: list[str]) -> Iterator[str]:
    """Patterns that match these among the rest: one for a place in all blocks, where that is no other's."""
    wanted, seen = set(names), set[str]()
    for name in names:
        if name in seen:
            continue
        pattern = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", glob.escape(name))
        found = set(fnmatch.filter(rest, pattern))
        if len(found) > 1 and found <= wanted:
            seen |= found
            yield pattern
        else:
            yield glob.escape(name)


def _scaled(rule: Optimizer, factor: float) -> Optimizer:
    if factor == 1.0:
        return rule
    made: Any = rule.replace("lr", option(rule, "lr") * factor)
    decay = option(rule, "weight_decay")
    if decay is None or (isinstance(decay, int | float) and decay == 0.0):
        return made
    return made.replace("weight_decay", decay * (1.0 / factor))


# -- the table -----------------------------------------------------------------------------------------------


class MuPRow(NamedTuple):
    """What the width does to one parameter.

    Parameters
    ----------
    name : str
    shape, base : tuple of int
        In the model and in the base.
    kind : str
        "input", "hidden", "output" or "fixed": see `regimes.model_transforms.growth.Growth`.
    sgd, adaptive : float
        What the rate is multiplied by; that of the family "sign" by the same as an adaptive one.
    first : float
        What `MuPInit` multiplies the first values by.
    """

    name: str
    shape: tuple[int, ...]
    base: tuple[int, ...]
    kind: str
    sgd: float
    adaptive: float
    first: float


class MuPTable(list[MuPRow]):
    """One row per parameter, printed as a table."""

    def __str__(self) -> str:
        heads = ("parameter", "shape", "base", "kind", "sgd", "adaptive", "first values")
        lines = [heads, *(_told(row) for row in self)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        return "\n".join("  ".join(f"{text:<{width}}" for text, width in zip(line, widths)).rstrip() for line in lines)


def _told(row: MuPRow) -> tuple[str, ...]:
    shapes = ("x".join(map(str, shape)) or "1" for shape in (row.shape, row.base))
    return (row.name, *shapes, row.kind, *(f"{factor:.4g}" for factor in (row.sgd, row.adaptive, row.first)))


def mup_table(model: nn.Module, base: nn.Module | int, parametrization: Parametrization = "mup") -> MuPTable:
    """Return by what `mup` multiplies rates, and `MuPInit` first values, one row per parameter.

    Parameters
    ----------
    model : Module
    base : Module or int
        As of `mup`.
    parametrization : "mup" or "ntk"
        "ntk" leaves first values alone.

    Raises
    ------
    DeclarationError
        As of `mup`, for what concerns the model.

    Examples
    --------
    >>> from regimes.workloads.models import MLP
    >>> print(mup_table(MLP((64, 256, 256, 10)), base=64))
    parameter        shape    base   kind    sgd   adaptive  first values
    layers.0.weight  256x64   64x64  input   4     1         1
    layers.0.bias    256      64     input   4     1         1
    layers.1.weight  256x256  64x64  hidden  1     0.25      1
    layers.1.bias    256      64     input   4     1         2
    layers.2.weight  10x256   10x64  output  0.25  0.25      0.5
    layers.2.bias    10       10     fixed   1     1         2
    """
    _check(parametrization, 1.0, None)
    narrow = base_of(model, base)
    grown, old = growth(model, narrow), dict(narrow.named_parameters())
    first = first_values(model, grown) if parametrization == "mup" else dict.fromkeys(grown, 1.0)
    found = MuPTable()
    for name, p in model.named_parameters():
        one = grown[name]
        sgd, adaptive = (one.rate(family, parametrization) for family in ("sgd", "adaptive"))
        found.append(MuPRow(name, tuple(p.shape), tuple(old[name].shape), one.kind, sgd, adaptive, first[name]))
    return found
