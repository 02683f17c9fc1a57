"""Self-distillation: recursion against closed forms, the loss against plain formulas, its teacher by a trial or from a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.evaluator import Evaluator
from regimes.testing.resume import resume_chain
from regimes.workloads.models import MLP

N = 12
G = torch.Generator().manual_seed(0)
POINTS = torch.randn(N, 3, generator=G, dtype=torch.float64)
KERNEL = torch.exp(-torch.cdist(POINTS, POINTS).square() / 2)
Y = torch.randn(N, generator=G, dtype=torch.float64)
PENALTY = 0.3


def ridge(penalty):
    return KERNEL @ torch.linalg.solve(KERNEL + penalty * torch.eye(N, dtype=torch.float64), Y)


@pytest.mark.exact("Distillation")
@pytest.mark.parametrize("a", [0.0, 0.25, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_recursion_is_its_filter(a, steps):
    values, vectors = torch.linalg.eigh(KERNEL)
    wanted = vectors @ (rg.spectral_filter(values, PENALTY, a, steps) * (vectors.T @ Y))
    found = rg.kernel_self_distillation(KERNEL, Y, PENALTY, a, steps)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.exact("Distillation")
def test_its_limits():
    smoother = KERNEL @ torch.linalg.inv(KERNEL + PENALTY * torch.eye(N, dtype=torch.float64))
    fit = rg.kernel_self_distillation
    torch.testing.assert_close(fit(KERNEL, Y, PENALTY, 1.0, 7), ridge(PENALTY), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        fit(KERNEL, Y, PENALTY, 0.0, 3), torch.linalg.matrix_power(smoother, 3) @ Y, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(fit(KERNEL, Y, PENALTY, 0.4, 400), ridge(PENALTY / 0.4), rtol=0, atol=1e-10)


@pytest.mark.exact("Distillation")
def test_the_best_weight_is_the_least_on_the_line():
    p1, p0 = ridge(PENALTY), rg.kernel_self_distillation(KERNEL, Y, PENALTY, 0.0, 2)
    truth = Y + 0.1 * torch.randn(N, generator=G, dtype=torch.float64)
    a = rg.optimal_weight(truth, p1, p0)
    errors = [(truth - (b * p1 + (1 - b) * p0)).square().sum() for b in (a - 1e-4, a, a + 1e-4)]
    assert errors[1] < errors[0]
    assert errors[1] < errors[2]
    assert rg.optimal_weight(p1, p1, p0) == pytest.approx(1.0, abs=1e-12)
    # One step of distillation is linear in a: the weight is exact for it.
    at = rg.kernel_self_distillation(KERNEL, Y, PENALTY, 0.35, 2)
    torch.testing.assert_close(at, 0.35 * p1 + 0.65 * p0, rtol=0, atol=1e-12)


X = torch.randn(24, 3, generator=G)
LABELS = torch.randint(0, 4, (24,), generator=G)


def net():
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 4))


def teacher():
    torch.manual_seed(5)
    return net()


@pytest.mark.exact("Distillation")
@pytest.mark.parametrize("by", ["square", "cross_entropy"])
@pytest.mark.parametrize("a", [0.0, 0.3, 0.9])
def test_units_against_plain_formulas(by, a):
    said, model = teacher(), net().eval()
    found = rg.Distillation("self", a, by).units({"teacher": dict(said.state_dict())}, model, (X, LABELS))
    out, theirs = model(X), said.eval()(X)
    if by == "square":
        hard = ((out - nn.functional.one_hot(LABELS, 4)) ** 2).mean(1)
        soft = ((out - theirs) ** 2).mean(1)
    else:
        hard = -out.log_softmax(1)[torch.arange(24), LABELS]
        soft = -(theirs.softmax(1) * out.log_softmax(1)).sum(1)
    torch.testing.assert_close(found.values, a * hard + (1 - a) * soft)


@pytest.mark.exact("Distillation")
def test_the_gradient_is_that_of_mixed_labels():
    """a d(f, y) + (1 - a) d(f, g) and d(f, a y + (1 - a) g) differ by a constant."""
    said, model = teacher(), net().eval()
    a, parameters = 0.3, list(model.parameters())
    units = rg.Distillation("self", a).units({"teacher": dict(said.state_dict())}, model, (X, LABELS)).values
    target = a * nn.functional.one_hot(LABELS, 4) + (1 - a) * said.eval()(X).detach()
    plain = (model(X) - target).square().mean(1)
    for left, right in zip(torch.autograd.grad(units.sum(), parameters), torch.autograd.grad(plain.sum(), parameters)):
        torch.testing.assert_close(left, right)


def test_the_teacher_is_asked_in_evaluation_mode_and_the_student_stays_as_it_was():
    said, model = teacher(), net()
    model[1].eval()
    state = {"teacher": dict(said.state_dict())}
    zero = rg.Distillation("self", 0.0)
    modes = [m.training for m in model.modules()]
    first, second = (zero.units(state, model, (X, LABELS)).values for _ in range(2))
    assert torch.equal(first, second)
    assert [m.training for m in model.modules()] == modes


@pytest.mark.exact("Distillation")
def test_the_teacher_is_asked_in_evaluation_mode_while_the_student_trains():
    said, model = teacher(), net()
    torch.manual_seed(1)
    found = rg.Distillation("self", 0.0).units({"teacher": dict(said.state_dict())}, model, (X, LABELS)).values
    torch.manual_seed(1)
    wanted = (model(X) - said.eval()(X)).square().mean(1)
    torch.testing.assert_close(found, wanted)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("share", [0.0, 0.3, rg.Linear(1.0, 0.5)])
def test_without_a_teacher_the_labels_are_all_there_is(share):
    with pytest.raises(rg.DeclarationError, match="ground_truth: got .*, but without a teacher the labels are all"):
        rg.Distillation(None, ground_truth=share)


def work():
    return rg.Workload(model=net, train=(X, LABELS), val=(X, LABELS), loss=nn.CrossEntropyLoss(), name="distil")


BASE = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="8 steps", loss=rg.Distillation(None))


@pytest.mark.exact("Distillation")
def test_its_own_teacher_is_a_plain_training_from_the_beginning(tmp_path):
    plain = rg.run(work(), BASE, 3, out=tmp_path / "teacher")
    run = rg.Run(work(), BASE.but(loss=rg.Distillation("self", 0.3)), 3)
    first = [record.loss for _, record in zip(range(9), run)]
    assert first[:8] == [row["loss"] for row in plain.records]
    for name, value in run.states["loss"]["teacher"].items():
        assert torch.equal(value, plain.model.state_dict()[name]), name
    given = rg.run(work(), BASE.but(loss=rg.Distillation(rg.FromRun(str(tmp_path / "teacher")), 0.3)), 3)
    own = rg.run(work(), BASE.but(loss=rg.Distillation("self", 0.3)), 3)
    assert [row["loss"] for row in own.records] == [row["loss"] for row in given.records]
    assert own.work.spent == given.work.spent > plain.work.spent


class Spying(rg.Distillation):
    """Keeps what it was told of the teacher, and what the teacher said to which inputs."""

    said = []

    def _said(self, state, model, args, kwargs):
        found = super()._said(state, model, args, kwargs)
        self.said.append((args[0].clone(), found.clone()))
        return found


def normed():
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))


@pytest.mark.exact("Distillation")
@pytest.mark.parametrize("fields", [{}, {"average": rg.EMA(0.5)}, {"optimizer": rg.ScheduleFreeSGD(lr=0.5)}])
def test_its_own_teacher_says_what_the_run_alone_would_be_judged_by(fields):
    """Running statistics, averages and a rule's evaluation weights belong to the teacher, from the first step to the last."""
    data = rg.Workload(model=normed, train=(X * 3 + 5, LABELS), loss=nn.CrossEntropyLoss())
    alone = rg.run(data, BASE.but(**fields), 3).model
    Spying.said.clear()
    run = rg.Run(data, BASE.but(loss=Spying("self", 0.3), **fields), 3)
    list(run)
    assert len(Spying.said) >= 8
    for inputs, said in Spying.said:
        with torch.no_grad():
            assert torch.equal(alone(inputs), said)


@pytest.mark.exact("Distillation")
@pytest.mark.parametrize(
    "transform", [rg.LowRankInit("layers.0.weight", rank=2), rg.GrowWidth(32), rg.Upcycle("layers.1", experts=2)]
)
def test_its_own_teacher_begins_where_the_phase_does(transform):
    """After the transforms of the phase, and, in a later phase, after what was trained before."""

    def regime(loss):
        phases = [rg.Phase("a", budget="4 steps"), rg.Phase("b", budget="4 steps", on_entry=[transform], loss=loss)]
        return rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, loss=rg.Distillation(None), phases=phases)

    data = rg.Workload(model=lambda: MLP((3, 16, 16, 4)), train=(X, LABELS), loss=nn.CrossEntropyLoss())
    plain = rg.run(data, regime(rg.Distillation(None)), 3)
    run = rg.Run(data, regime(rg.Distillation("self", 0.3)), 3)
    losses = [record.loss for record in run]
    assert losses[:8] == [row["loss"] for row in plain.records]
    for name, value in plain.model.state_dict().items():
        assert torch.equal(run.states["loss"]["teacher"][name], value), name


def test_a_step_of_the_teacher_that_is_not_finite_is_skipped_as_a_runs_is():
    x = X.clone()
    x[5] = float("inf")
    data = rg.Workload(model=net, train=(x, LABELS), loss=nn.CrossEntropyLoss())
    run = rg.Run(data, BASE.but(loss=rg.Distillation("self", 0.3)), 3)
    teacher = [record.signals for _, record in zip(range(8), run)]
    assert [sum(key in row for row in teacher) for key in ("trial", "skipped")] == [8, 3]
    assert run.states["loss"]["teacher"]


def test_a_teacher_without_the_models_running_statistics_is_refused():
    model = normed()
    state = {"teacher": dict(model.named_parameters())}
    with pytest.raises(rg.DeclarationError, match="teacher: .*the buffer '1.running_mean' is missing"):
        rg.Distillation("self", 0.5).units(state, model, (X, LABELS))


def test_resume_in_the_middle_of_the_teachers_training():
    found = resume_chain(lambda: rg.Run(work(), BASE.but(loss=rg.Distillation("self", 0.3)), 1), 16)
    assert found == []


def test_a_teacher_of_another_model_is_refused():
    with pytest.raises(rg.DeclarationError, match="teacher: got weights that do not fit the model: '0.weight'"):
        rg.Distillation("self", 0.5).units({"teacher": {"w": X}}, net(), (X, LABELS))


@pytest.mark.exact("Distillation")
@pytest.mark.parametrize("by", ["square", "cross_entropy"])
def test_of_sequences_every_position_is_a_unit_and_padding_counts_as_nothing(by):
    model, said = nn.Linear(3, 4), nn.Linear(3, 4)
    x, labels = torch.randn(2, 5, 3, generator=G), torch.randint(0, 4, (2, 5), generator=G)
    labels[1, 3:] = -100
    loss, state = rg.Distillation("self", 0.3, by), {"teacher": dict(said.state_dict())}
    found = loss.units(state, model, (x, labels))
    assert found.examples.tolist() == [0] * 5 + [1] * 5
    assert found.weights.tolist() == [1.0] * 8 + [0.0] * 2
    flat = loss.units(state, model, (x.view(10, 3)[:8], labels.view(10)[:8]))
    torch.testing.assert_close(found.values[:8], flat.values)


def test_outputs_that_hold_no_classes_are_refused():
    with pytest.raises(rg.DeclarationError, match="by: got 'cross_entropy' for an output of shape"):
        rg.Distillation(None, by="cross_entropy").units({"teacher": {}}, nn.Flatten(0), (X, X.view(-1)))
    with pytest.raises(
        rg.DeclarationError, match=r"loss: .* for labels of shape \(24, 1\); allowed: \(24, 1, 'classes'\)"
    ):
        rg.Distillation(None).units({"teacher": {}}, net(), (X, LABELS[:, None]))


def test_what_listens_to_the_student_does_not_hear_the_teacher():
    """A rule that captures what layers see would mix both networks' inputs."""
    run = rg.Run(work(), BASE.but(loss=rg.Distillation("self", 0.3), trainable=["3.*"]), 3)
    for _ in range(9):
        run.step()
    evaluate = Evaluator(run, run.phase.substitute({}), run.frame.plans[0])
    found = evaluate(capture=["input:3", "output:3"]).captured
    assert [len(calls) for calls in found.values()] == [1, 1]


def test_the_teacher_of_a_network_that_is_frozen_in_part_is_whole():
    run = rg.Run(work(), BASE.but(loss=rg.Distillation("self", 0.3), trainable=["3.*"]), 3)
    for _ in range(9):
        run.step()
    assert run.states["loss"]["teacher"].keys() == dict(net().named_parameters()).keys()


def test_a_scoring_pass_uses_the_share_of_now():
    """OrderedPrefix looks before the first step: a share that is a schedule is a number by then."""
    regime = BASE.but(
        loss=rg.Distillation("self", ground_truth=rg.Linear(1.0, 0.5)), sampler=rg.OrderedPrefix(over="4 steps")
    )
    assert rg.run(work(), regime, 0).steps == 8


def test_a_teacher_that_diverges_ends_the_run():
    with pytest.raises(rg.RunFailed, match="the teacher's training ended with"):
        rg.run(work(), BASE.but(loss=rg.Distillation("self", 0.3), optimizer=rg.SGD(lr=1e30), budget="20 steps"), 0)
