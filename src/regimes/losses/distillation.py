"""Learning from a teacher and from the labels: self-distillation with ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regimes.core.card import Card, Claim
from regimes.core.component import fixed, knob
from regimes.core.duration import Duration
from regimes.core.errors import DeclarationError, RunFailed, show
from regimes.core.kinds import Knob, Loss, State, Weights
from regimes.core.listening import apart
from regimes.core.progress import Progress
from regimes.core.registry import register
from regimes.core.trial import Trial, TrialEnd
from regimes.core.unit_losses import UnitLosses
from regimes.losses.forward import per_position, split

_PLAIN = {
    "optimizer": "SGD(lr=0.1, momentum=0.9)",
    "batch_size": 32,
    "budget": "60 epochs",
    "loss": "Distillation(teacher=None)",
}


def _study() -> dict[str, Any]:
    """Digits, 40% of the training labels wrong; both arms tune their rate, the student also its share of labels."""
    return {
        "workload": {"name": "digits_mlp", "hidden": [64], "examples": 600, "label_noise": 0.4},
        "compare": {
            "baseline": "teacher",
            "metric": "acc",
            "better": "higher",
            "margin": 0.01,
            "seeds": 12,
            "trials": 5,
        },
        "tune": {"*.lr": "times(1/4, 4)"},
        "arms": {
            "teacher": _PLAIN,
            "student": {**_PLAIN, "loss": "Distillation('self', ground_truth=0.3)"},
        },
    }


@register
class Distillation(Loss):
    r"""Fit the labels with weight a, and what a teacher says with weight 1 - a.

    .. math:: \ell_i = a \, d(f(x_i), y_i) + (1 - a) \, d(f(x_i), g(x_i))

    with d the mean squared difference over the outputs (integer labels one-hot), or the cross-entropy of the softmax
    of the outputs against labels and against the teacher's softmax. The teacher g has the student's architecture and
    is evaluated in evaluation mode, without gradient, on the very inputs of the step.

    Parameters
    ----------
    teacher : Weights, "self" or None
        ``FromRun("runs/teacher")``; "self": a trial of the whole phase from the weights with which it begins, with a = 1,
        trains it (its work is charged), and what that run would be judged by, averaged weights where the phase has an
        averager, is the teacher; None: labels alone. Default "self".
    ground_truth : knob
        a in [0, 1]. Default 1, labels alone. `regimes.losses.self_distillation.optimal_weight` gives the best one of a
        teacher and a student of a = 0 in closed form.
    by : "square" or "cross_entropy"
        d. Default square, the paper's.

    Raises
    ------
    DeclarationError
        If labels are not all and there is no teacher, or all and there is one; if the teacher's weights do not fit the
        model, or the outputs no labels.
    RunFailed
        If the training of the teacher diverges: as many steps in a row are not finite as a run gives up at.

    References
    ----------
    K. Borup and L. N. Andersen, Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by
    Self-Distillation, NeurIPS 2021, arXiv:2102.13088.

    Examples
    --------
    >>> net = nn.Linear(1, 2)
    >>> _ = net.load_state_dict({"weight": torch.zeros(2, 1), "bias": torch.tensor([0.0, 1.0])})
    >>> said = {"teacher": {"weight": torch.zeros(2, 1), "bias": torch.tensor([1.0, 1.0])}}
    >>> batch = torch.zeros(1, 1), torch.tensor([1])
    >>> [Distillation(ground_truth=a).units(said, net, batch).values.tolist() for a in (0.75, 0.5, 0.0)]
    [[0.125], [0.25], [0.5]]
    """

    teacher: Weights | Literal["self"] | None = fixed("self")
    ground_truth: Knob = knob(1.0, low=0, high=1)
    by: Literal["square", "cross_entropy"] = fixed("square")

    card = Card(
        title="Self-distillation: labels and a teacher, weighted",
        axes=("distribution", "phases"),
        source="Borup and Andersen 2021, arXiv:2102.13088",
        when="Noisy labels; a model that shall learn once more what it has learned.",
        cost="one forward of the teacher a step; 'self': one more training, in a trial",
        shelf="atlas",
        rows=("ground-truth-self-distillation",),
        defaults={"ground_truth": "1: labels alone; the paper's weight is in closed form", "by": "square, the paper's"},
        deviations=("More than one step of distillation is a run each: FromRun names the last one.",),
        claims=(
            Claim(
                "Right more often after training on digits with 40% wrong labels than its teacher is.",
                _study(),
                paper_scale="kernel ridge regression; ResNet-34 on CIFAR-10",
            ),
        ),
    )

    @classmethod
    def example(cls) -> list[Distillation]:
        """Both distances, with a teacher of its own."""
        return [cls("self", 0.3), cls("self", 0.5, "cross_entropy"), cls(None)]

    def validate(self) -> None:
        """Refuse a teacher that is trained, or read, for nothing, and a weight of the labels that nothing balances."""
        if self.teacher is None and self.ground_truth != 1.0:
            raise DeclarationError(
                f"got {show(self.ground_truth)}, but without a teacher the labels are all there is; allowed: 1, or a teacher",
                "ground_truth",
            )
        if self.teacher is not None and self.ground_truth == 1.0:
            raise DeclarationError(
                "got 1, labels alone, beside a teacher that nothing would read; allowed: below 1, a schedule, or "
                "teacher=None",
                "ground_truth",
            )

    def init(self) -> State:
        """No teacher yet, or the one that was given."""
        return {"teacher": dict(self.teacher.load()) if isinstance(self.teacher, Weights) else {}}

    def propose(self, state: State, at: Progress) -> Trial | None:
        """A training with labels alone, before the first step."""
        if self.teacher != "self" or state["teacher"]:
            return None
        return Trial({"": Distillation(None, by=self.by)}, Duration(100.0, "%"), skips=True)

    def absorb(self, state: State, end: TrialEnd) -> State:
        """Keep its weights; a training that failed has taught nothing."""
        if end.failed is not None:
            raise RunFailed(f"the teacher's training ended with: {end.failed}; lower its learning rate")
        return {"teacher": {name: value.clone() for name, value in end.weights.items()}}

    def units(self, state: State, model: nn.Module, batch: Any) -> UnitLosses:
        """One unit per example, of sequences one per position; a label below 0 counts as nothing."""
        args, kwargs, target = split(batch)
        output = model(*args, **kwargs)
        if self.by == "cross_entropy" and output.ndim < 2:
            raise DeclarationError(
                f"got 'cross_entropy' for an output of shape {tuple(output.shape)}; allowed: classes last, or 'square'",
                "by",
            )
        values = self.ground_truth * self._distance(output, _as_output(target, output))
        if state["teacher"] and self.ground_truth < 1.0:
            values = values + (1.0 - self.ground_truth) * self._distance(output, self._said(state, model, args, kwargs))
        counts = None if target.is_floating_point() or int(target.min()) >= 0 else (target >= 0).to(values.dtype)
        return per_position(values, counts)

    def _said(self, state: State, model: nn.Module, args: Any, kwargs: Any) -> Tensor:
        training = [module for module in model.modules() if module.training]
        model.eval()
        try:
            with torch.no_grad(), apart():
                teacher = _fitting(model, state["teacher"])
                said: Tensor = torch.func.functional_call(model, teacher, args, kwargs)
        finally:
            for module in training:
                module.training = True
        return said.softmax(-1) if self.by == "cross_entropy" else said

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Of every position: over the last axis of the outputs."""
        if output.ndim < 2:
            return (output - target).square()
        if self.by == "cross_entropy":
            return -(target * output.log_softmax(-1)).sum(-1)
        return (output - target).square().mean(-1)


def _as_output(target: Tensor, output: Tensor) -> Tensor:
    """Labels as numbers of the output's shape."""
    if not target.is_floating_point():
        if target.shape != output.shape[:-1]:
            raise DeclarationError(
                f"got an output of shape {tuple(output.shape)} for labels of shape {tuple(target.shape)}; allowed: "
                f"{(*tuple(target.shape), 'classes')}",
                "loss",
            )
        target = functional.one_hot(target.clamp_min(0), output.shape[-1])
    return target.reshape(output.shape).to(output.dtype)


def _fitting(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's parameters and buffers; buffers as copies, which a forward may write."""
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            raise DeclarationError(
                f"got weights that do not fit the model: '{name}' is missing or another", "loss.teacher"
            )
    # Those outside the state dict (masks, tables) may be the model's own.
    buffers, saved = dict(model.named_buffers()), model.state_dict(keep_vars=True)
    for name, own in buffers.items():
        if name in saved and name not in weights:
            raise DeclarationError(
                f"got weights that do not fit the model: the buffer '{name}' is missing", "loss.teacher"
            )
        buffers[name] = weights.get(name, own).clone()
    given = {name: weights[name] for name in shapes} | buffers
    device = next(model.parameters()).device
    return {name: value.to(device) for name, value in given.items()}
