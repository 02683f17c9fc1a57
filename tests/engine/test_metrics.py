"""Metrics over batches of uneven size, over padding and over several sources are those of all examples at once."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.engine.metrics import Meter

G = torch.Generator().manual_seed(0)


class Ranking:
    """Area under the curve, as torchmetrics would keep it: not a mean over batches or sources."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.scores, self.targets = [], []

    def update(self, output, target):
        self.scores.append(output[:, 1] - output[:, 0])
        self.targets.append(target)

    def compute(self):
        return torch.tensor(roc_auc_score(torch.cat(self.targets), torch.cat(self.scores)), dtype=torch.float64)


class Several(Ranking):
    """Several values by name."""

    def compute(self):
        return {"n": len(torch.cat(self.targets)), "mean": torch.cat(self.scores).double().mean()}


def batches(sizes, shift=0.0):
    for n in sizes:
        target = torch.randint(0, 2, (n,), generator=G)
        yield torch.randn(n, 2, generator=G, dtype=torch.float64) + shift, target


METRICS = {
    "acc": rg.Accuracy(),
    "mean error": lambda output, target: (output[:, 1] - target).abs().mean(),
    "as a number": lambda output, target: float((output[:, 1] - target).abs().mean()),
    "as an array": lambda output, target: (output[:, 1] - target).abs().numpy(),
    "auc": Ranking(),
    "several": Several(),
}


def expected(parts):
    output, target = torch.cat([o for o, _ in parts]), torch.cat([t for _, t in parts])
    error = (output[:, 1] - target).abs().mean().item()
    scores = output[:, 1] - output[:, 0]
    return {
        "loss": functional.cross_entropy(output, target).item(),
        "acc": (output.argmax(1) == target).double().mean().item(),
        "mean error": error,
        "as a number": error,
        "as an array": error,
        "auc": roc_auc_score(target, scores),
        "several/n": float(len(target)),
        "several/mean": scores.mean().item(),
    }


def filled(parts, whole=None):
    meter = Meter(METRICS, whole)
    for output, target in parts:
        values = functional.cross_entropy(output, target, reduction="none")
        meter.add(values.sum().item(), len(values), output, target)
    return meter


def test_uneven_batches_are_one_set():
    parts = list(batches([5, 5, 2, 1]))
    assert filled(parts).values() == pytest.approx(expected(parts), rel=1e-12)


def test_sources_join_as_one_set():
    first, second = list(batches([6, 3])), list(batches([2, 7], shift=torch.tensor([0.0, 3.0])))
    whole = Meter(METRICS)
    joined = Meter.joined([filled(first, whole), filled(second, whole)])
    assert joined == pytest.approx(expected(first + second), rel=1e-12)
    apart = [filled(part).values()["auc"] for part in (first, second)]
    assert abs(joined["auc"] - np.average(apart, weights=[9, 9])) > 0.01  # which is why there is a whole


def test_meters_share_nothing_with_the_persons_objects():
    before = len(METRICS["auc"].targets)
    filled(list(batches([4])))
    assert len(METRICS["auc"].targets) == before == 0


def test_nothing_counted_is_not_a_number():
    meter = Meter({"acc": rg.Accuracy()})
    meter.add(0.0, 0.0, torch.zeros(2, 3), torch.full((2,), -100))
    assert all(np.isnan(value) for value in meter.values().values())


def test_a_failing_metric_is_named():
    with pytest.raises(rg.UserCodeError, match=r"the metric 'f1' failed: ZeroDivisionError: division by zero"):
        Meter({"f1": lambda output, target: 1 / 0}).add(1.0, 1.0, torch.zeros(1), torch.zeros(1))


def test_accuracy_of_every_shape():
    classes = torch.randint(0, 4, (6, 5), generator=G)
    last = functional.one_hot(classes, 4).double()
    wrong = classes.clone()
    wrong[0, :3], wrong[1, 0] = (classes[0, :3] + 1) % 4, -100
    accuracy = rg.Accuracy()
    for output in (last, last.movedim(-1, 1)):
        assert accuracy(output, classes).tolist() == [1.0] * 30
        assert accuracy(output, wrong).tolist() == [0.0] * 3 + [1.0] * 26
    assert accuracy(last[:, 0], wrong[:, 0]).tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert accuracy(torch.tensor([-1.0, 2.0, 0.5]), torch.tensor([0, 1, 0])).tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(
        rg.DeclarationError, match=r"Accuracy: got an output of shape \(6, 4\) and a target of shape \(5,\)"
    ):
        accuracy(torch.zeros(6, 4), torch.zeros(5))


def test_accuracy_is_told_where_the_classes_are_when_shapes_leave_it_open():
    classes = torch.randint(0, 5, (6, 5), generator=G)
    last = functional.one_hot(classes, 5).double()
    with pytest.raises(
        rg.DeclarationError, match=r"Accuracy: .*\(6, 5, 5\).* write Accuracy\(dim=1\) or Accuracy\(dim=-1\)"
    ):
        rg.Accuracy()(last, classes)
    assert rg.Accuracy(dim=-1)(last[1:], classes[1:]).tolist() == [1.0] * 25
    assert rg.Accuracy(dim=1)(last.movedim(-1, 1)[1:], classes[1:]).tolist() == [1.0] * 25
    assert rg.Accuracy()(last[:5, 0], classes[:5, 0]).tolist()[1:] == [1.0] * 4  # (n, n) with (n,): rows are examples
    assert rg.Accuracy(dim=-1)(last[1:], last[1:]).tolist() == [1.0] * 25
    with pytest.raises(rg.DeclarationError, match="dim: got 'last'"):
        rg.Accuracy(dim="last")
    with pytest.raises(rg.DeclarationError, match=r"Accuracy: got an output of shape \(6, 4\)"):
        rg.Accuracy(dim=3)(torch.zeros(6, 4), torch.zeros(6))


def test_metrics_of_a_run_by_source_and_together():
    val = {"a": next(batches([7])), "b": next(batches([4], shift=1.0))}
    work = rg.Workload(
        model=lambda: nn.Linear(2, 2).double(),
        train=val["a"],
        val=val,
        loss=nn.CrossEntropyLoss(),
        metrics={"acc": rg.Accuracy()},
        eval_batch=3,
    )
    result = rg.run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="3 steps"))
    model = result.model
    for names, prefix in ((["a"], "val/a/"), (["b"], "val/b/"), (["a", "b"], "val/")):
        x, y = (torch.cat([val[name][part] for name in names]) for part in (0, 1))
        output = model(x).detach()
        assert result.metrics[f"{prefix}loss"] == pytest.approx(functional.cross_entropy(output, y).item(), rel=1e-12)
        assert result.metrics[f"{prefix}acc"] == pytest.approx(
            (output.argmax(1) == y).double().mean().item(), rel=1e-12
        )
