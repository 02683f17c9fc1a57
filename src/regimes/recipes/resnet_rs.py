"""ResNet-RS: what is added to a classical image regime, one part after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regimes.averagers import EMA
from regimes.core import paths
from regimes.core.card import Card, Claim, described
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Augment, Controller, ModelTransform, Schedule
from regimes.core.regime import Phase, Regime
from regimes.losses import CrossEntropy
from regimes.model_transforms import InputDropout, StochasticDepth
from regimes.optimizers import SGD
from regimes.schedules import Cosine, Step

#: Of a plain regime, and what becomes of it where several regularizers are on: 1e-4 and 4e-5.
DECAY, LESS = 1e-4, 0.4
#: So many regularizers call for less decay.
SEVERAL = 3
_SCALE = "digits with 20% wrong labels, residual MLP of 4 blocks of 64, SGD with momentum, batch 32"


@described(
    Card(
        title="Less weight decay where several regularizers are on",
        axes=("regime",),
        source="Bello et al. 2021, arXiv:2103.07579",
        when="Label smoothing, dropout, stochastic depth or augmentation have been added to a regime that was tuned without.",
        shelf="atlas",
        rows=("resnet-rs",),
        defaults={"factor": "0.4, from 1e-4 to 4e-5", "several": "3: recalled, of two the paper finds no gain"},
        deviations=(
            "From how many regularizers on decay is to fall is recalled from a table of the paper, not read.",
            "What a workload's own model drops is not seen: parts of the regime alone are counted.",
        ),
    )
)
def regularized_decay(regime: Regime) -> Regime:
    """Return the regime with 0.4 times the weight decay, phase by phase, where three regularizers or more are on.

    Counted are label smoothing (above 0, or scheduled), stochastic depth (survival below 1), dropout (p above 0) and
    augmentation, each once; the transforms of earlier phases last. Everything else is as it was.

    Parameters
    ----------
    regime : Regime
        With the weight decay that is right without them. Schedules and controllers are multiplied as a whole.

    Returns
    -------
    Regime

    References
    ----------
    I. Bello et al., Revisiting ResNets: Improved Training and Scaling Strategies, NeurIPS 2021, arXiv:2103.07579.

    Examples
    --------
    >>> parts = {"loss": CrossEntropy(label_smoothing=0.1), "on_entry": [StochasticDepth(0.9), InputDropout(0.25)]}
    >>> base = Regime(optimizer=SGD(lr=0.1, weight_decay=1e-4), batch_size=32, budget="10 epochs")
    >>> regularized_decay(base) == base, regularized_decay(base.but(**parts)).phases[0].optimizer.weight_decay
    (True, 4e-05)
    """
    edits: dict[str, Any] = {}
    entered: list[ModelTransform] = []
    for phase in regime.phases:
        entered += phase.on_entry
        if len(regularizers(phase, entered)) < SEVERAL:
            continue
        for path, value in paths.walk(phase.optimizer, f"{phase.name}.optimizer"):
            if path.endswith(".weight_decay"):
                moving = isinstance(value, Schedule | Controller)
                edits[path] = LESS * value if moving else float(f"{LESS * value:.12g}")
    return regime.but(edits) if edits else regime


def regularizers(phase: Phase, entered: Sequence[ModelTransform]) -> list[str]:
    """Return which regularizers are on in a phase, whose model has been through these transforms.

    Examples
    --------
    >>> smooth = CrossEntropy(label_smoothing=0.1)
    >>> regime = Regime(optimizer=SGD(lr=0.1), batch_size=8, budget="1 epochs", loss=smooth)
    >>> regularizers(regime.phases[0], [StochasticDepth(0.5), StochasticDepth(1.0)])
    ['label smoothing']
    """
    last = {type(transform): transform for transform in entered}
    depth, dropout = last.get(StochasticDepth), last.get(InputDropout)
    smoothing = getattr(phase.loss, "label_smoothing", 0.0)
    found = {
        "label smoothing": smoothing != 0.0,
        "stochastic depth": isinstance(depth, StochasticDepth) and depth.survival < 1.0,
        "dropout": isinstance(dropout, InputDropout) and dropout.p > 0.0,
        "augmentation": bool(phase.augment),
    }
    return [name for name, on in found.items() if on]


def resnet_rs_ablation(
    epochs: float = 350,
    batch_size: int = 4096,
    *,
    short: float = 90,
    warmup: float = 5,
    lr: float | None = None,
    survival: float = 0.8,
    branches: str | Sequence[str] = StochasticDepth.patterns,
    dropout: float = 0.25,
    head: str | Sequence[str] = "head",
    augment: Augment | Sequence[Augment] = (),
) -> dict[str, Regime]:
    """Return a classical regime, and it with one part after the other of ResNet-RS added, by what was added.

    The order is the paper's. The last is `resnet_rs`. Where there is no `augment`, that one is left out.

    Parameters
    ----------
    epochs, batch_size, warmup, lr, survival, branches, dropout, head, augment
        As of `resnet_rs`.
    short : float
        Epochs of the first two, the classical length. Default 90.

    Returns
    -------
    dict of str to Regime
        "step decay", "cosine", "long", "average", "label smoothing", "stochastic depth", "augmentation", "dropout",
        "less decay".

    Raises
    ------
    DeclarationError
        If the warm-up is not shorter than training.

    Examples
    --------
    >>> list(resnet_rs_ablation(augment=()))
    ['step decay', 'cosine', 'long', 'average', 'label smoothing', 'stochastic depth', 'dropout', 'less decay']
    """
    if not warmup < min(epochs, short):
        raise DeclarationError(f"got {warmup:g}; allowed: below {min(epochs, short):g}, the shorter length", "warmup")
    peak = 0.1 * batch_size / 256 if lr is None else lr
    rise = Duration(warmup, "epochs")
    # At 30, 60 and 80 of 90 epochs.
    drops = [Duration(short * share, "epochs") for share in (1 / 3, 2 / 3, 8 / 9)]
    base = Regime(
        optimizer=SGD(lr=Step(peak, drops, warmup=rise), momentum=0.9, weight_decay=DECAY),
        batch_size=batch_size,
        budget=Duration(short, "epochs"),
    )
    noise = [augment] if isinstance(augment, Augment) else list(augment)
    transforms: list[ModelTransform] = [StochasticDepth(survival, branches), InputDropout(dropout, head)]
    parts: dict[str, dict[str, Any]] = {
        "step decay": {},
        "cosine": {"optimizer": SGD(lr=Cosine(peak, warmup=rise), momentum=0.9, weight_decay=DECAY)},
        "long": {"budget": Duration(epochs, "epochs")},
        "average": {"average": EMA(0.9999)},
        "label smoothing": {"loss": CrossEntropy(label_smoothing=0.1)},
        "stochastic depth": {"on_entry": transforms[:1]},
        "augmentation": {"augment": noise},
        "dropout": {"on_entry": transforms},
    }
    found, made = {}, base
    for name, part in parts.items():
        if name != "augmentation" or noise:
            found[name] = made = made.but(part) if part else made
    return found | {"less decay": regularized_decay(made)}


@described(
    Card(
        title="ResNet-RS: a long cosine, an average of weights, regularizers and less decay",
        axes=("regime",),
        source="Bello et al. 2021, arXiv:2103.07579",
        when="Image classification with residual networks, trained for long.",
        cost="3.9 times the epochs of the classical regime",
        shelf="atlas",
        rows=("resnet-rs",),
        defaults={
            "epochs": "350, the paper's",
            "lr": "0.1 for each 256 of the batch, the paper's",
            "survival": "0.8, the paper's least",
            "dropout": "0.25, the paper's",
        },
        deviations=(
            "Parts of the architecture (squeeze-and-excitation, the stem and the downsampling of ResNet-D) are the model's, "
            "and are not declared here; nor are the paper's rules on depth, width and resolution.",
            "RandAugment is not built; any augmentation may stand in its place.",
        ),
        claims=(
            Claim(
                "Eighty epochs instead of ten gain more test accuracy with regularizers than without, each at the better of two "
                "weight decays.",
                {"seeds": 5, "margin": 0.01, "scale": f"{_SCALE}, 10 and 80 epochs"},
                paper_scale="ResNet-200 on ImageNet, 90 and 350 epochs",
                measure="regimes.claims.resnet_rs:long_training",
            ),
            Claim(
                "The better of two weight decays (5e-3, 5e-4) is no larger with regularizers than without (log10, negative).",
                {"seeds": 5, "margin": 0.1, "scale": f"{_SCALE}, 80 epochs"},
                paper_scale="ResNet-50 and ResNet-200 on ImageNet, 350 epochs",
                says="not worse",
                measure="regimes.claims.resnet_rs:decay",
            ),
            Claim(
                "At a constant rate the averaged weights have no larger a test loss than the last ones.",
                {"seeds": 5, "margin": 0.01, "scale": f"{_SCALE}, 10 epochs, decay of the average 0.99"},
                paper_scale="ResNet-200 on ImageNet, decay of the average 0.9999",
                says="not worse",
                measure="regimes.claims.resnet_rs:average",
            ),
        ),
    )
)
def resnet_rs(
    epochs: float = 350,
    batch_size: int = 4096,
    *,
    warmup: float = 5,
    lr: float | None = None,
    survival: float = 0.8,
    branches: str | Sequence[str] = StochasticDepth.patterns,
    dropout: float = 0.25,
    head: str | Sequence[str] = "head",
    augment: Augment | Sequence[Augment] = (),
) -> Regime:
    """Return the training regime of ResNet-RS: a plain declaration, to be printed and edited as any other.

    Momentum SGD with a cosine to 0 after a linear rise, an average of the weights with decay 0.9999, label smoothing 0.1,
    stochastic depth, dropout before the head, augmentation, and the weight decay of `regularized_decay`: 4e-5 where three
    regularizers are on, else 1e-4.

    Parameters
    ----------
    epochs : float
        Default 350.
    batch_size : int
        Default 4096.
    warmup : float
        Epochs of the rise. Default 5.
    lr : float, optional
        Peak. Default 0.1 times the batch size over 256.
    survival : float
        Of the last branch, from 1 (small models) to 0.8. Default 0.8.
    branches : str or sequence of str
        Patterns of the modules that are residual branches, see `StochasticDepth`.
    dropout : float
        Before the head. Default 0.25.
    head : str or sequence of str
        Patterns of the classifier's name. Default "head".
    augment : Augment or sequence of Augment
        Default none: RandAugment is not built.

    Returns
    -------
    Regime

    Raises
    ------
    DeclarationError
        If the warm-up is not shorter than training, or a number is out of range.

    Notes
    -----
    A decay of 0.9999 averages over the last ten thousand steps; a short training wants a smaller one:
    ``resnet_rs(...).but({"average.decay": 0.99})``.

    References
    ----------
    I. Bello, W. Fedus, X. Du, E. D. Cubuk, A. Srinivas, T.-Y. Lin, J. Shlens and B. Zoph, Revisiting ResNets: Improved
    Training and Scaling Strategies, NeurIPS 2021, arXiv:2103.07579.

    Examples
    --------
    >>> found = resnet_rs(batch_size=512, branches="blocks.*")
    >>> found.phases[0].optimizer
    SGD(lr=Cosine(0.2, warmup='5 epochs'), momentum=0.9, weight_decay=4e-05)
    >>> found.phases[0].on_entry
    (StochasticDepth(patterns=['blocks.*']), InputDropout())
    """
    named = {"warmup": warmup, "lr": lr, "survival": survival, "branches": branches, "dropout": dropout, "head": head}
    return resnet_rs_ablation(epochs, batch_size, short=epochs, augment=augment, **named)["less decay"]  # type: ignore[arg-type]
