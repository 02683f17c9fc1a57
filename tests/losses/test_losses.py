"""Unit losses whose weighted mean is torch's own mean, for every way to bring a loss."""

import copy
import functools
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.losses.coerce import as_loss
from regimes.losses.forward import split

G = torch.Generator().manual_seed(0)
DOUBLE = {"generator": G, "dtype": torch.float64}
N, K = 7, 4
LOGITS, CLASSES = torch.randn(N, K, **DOUBLE), torch.randint(0, K, (N,), generator=G)
IMAGE, PIXELS = torch.randn(N, K, 3, 2, **DOUBLE), torch.randint(0, K, (N, 3, 2), generator=G)
HOLES = PIXELS.masked_fill(torch.rand(PIXELS.shape, generator=G) < 0.4, -100)
HOLES[2] = -100  # an example that counts as nothing
WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=torch.float64)
A, B = torch.randn(N, 5, **DOUBLE), torch.rand(N, 5, **DOUBLE)
SIGNS = B.round() * 2 - 1
PROBABILITIES = torch.rand(N, K, **DOUBLE).softmax(1)


def mean(units):
    """The engine's weighted mean."""
    if units.weights is None:
        return units.values.mean()
    return (units.values * units.weights).sum() / units.weights.sum()


CRITERIA = [
    (nn.CrossEntropyLoss(), LOGITS, CLASSES),
    (nn.CrossEntropyLoss(label_smoothing=0.2), LOGITS, CLASSES),
    (nn.CrossEntropyLoss(), IMAGE, PIXELS),
    (nn.CrossEntropyLoss(), IMAGE, HOLES),
    (nn.CrossEntropyLoss(ignore_index=1, label_smoothing=0.1), IMAGE, PIXELS),
    (nn.CrossEntropyLoss(), LOGITS, PROBABILITIES),
    (nn.CrossEntropyLoss(weight=WEIGHT), LOGITS, CLASSES),
    (nn.CrossEntropyLoss(weight=WEIGHT), IMAGE, HOLES),
    (nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1), IMAGE, PIXELS),
    (nn.CrossEntropyLoss(weight=WEIGHT + 0.1, label_smoothing=0.3), IMAGE, HOLES),
    (nn.CrossEntropyLoss(weight=WEIGHT), LOGITS, PROBABILITIES),
    (nn.NLLLoss(), LOGITS.log_softmax(1), CLASSES),
    (nn.NLLLoss(weight=WEIGHT), IMAGE.log_softmax(1), HOLES),
    (nn.MSELoss(), A, B),
    (nn.MSELoss(), A[:, 0], B[:, 0]),
    (nn.L1Loss(), A, B),
    (nn.SmoothL1Loss(beta=0.3), A, B),
    (nn.HuberLoss(delta=0.7), A, B),
    (nn.BCEWithLogitsLoss(), A, B),
    (nn.BCEWithLogitsLoss(pos_weight=torch.arange(1.0, 6.0, dtype=torch.float64)), A, B),
    (nn.BCELoss(), A.sigmoid(), B),
    (nn.KLDivLoss(), A.log_softmax(1), B.softmax(1)),
    (nn.KLDivLoss(reduction="batchmean", log_target=True), A.log_softmax(1), B.log_softmax(1)),
    (nn.PoissonNLLLoss(), A, B),
    (nn.SoftMarginLoss(), A, SIGNS),
    (nn.HingeEmbeddingLoss(), A, SIGNS),
    (nn.MultiLabelSoftMarginLoss(), A, B.round()),
    (nn.MultiLabelMarginLoss(), LOGITS, torch.tensor([[0, 2, -1, -1]] * N)),
    (nn.MultiMarginLoss(), LOGITS, CLASSES),
]


@pytest.mark.parametrize("place", range(len(CRITERIA)))
@pytest.mark.filterwarnings("ignore:reduction:UserWarning")  # of torch's own mean of KLDivLoss
def test_mean_of_units_is_the_mean_of_the_criterion(place):
    criterion, output, target = CRITERIA[place]
    output = output.detach().requires_grad_()
    units = as_loss(copy.deepcopy(criterion)).per_unit(output, target)
    expected = criterion(output, target)
    torch.testing.assert_close(mean(units), expected, rtol=1e-13, atol=0)
    ours, theirs = (torch.autograd.grad(value, output)[0] for value in (mean(units), expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert units.values.ndim == 1
    counted = torch.arange(N) if units.examples is None else units.examples.unique()
    assert counted.tolist() == list(range(N))


def test_units_belong_to_their_examples():
    units = as_loss(nn.CrossEntropyLoss(weight=WEIGHT)).per_unit(IMAGE, HOLES)
    assert units.examples.tolist() == [i for i in range(N) for _ in range(6)]
    assert units.weights.tolist() == [0.0 if y == -100 else WEIGHT[y].item() for y in HOLES.flatten().tolist()]
    plain = functional.cross_entropy(IMAGE, HOLES, reduction="none").flatten()
    heavy = units.weights > 0
    torch.testing.assert_close(units.values[heavy], plain[heavy], rtol=1e-13, atol=0)


def test_losses_without_padding_carry_no_weights():
    assert rg.CrossEntropy().per_unit(LOGITS, CLASSES).weights is None
    assert rg.NextToken().per_unit(IMAGE.movedim(1, -1).flatten(1, 2), PIXELS.flatten(1)).weights is None
    assert rg.CrossEntropy(ignore=2).per_unit(LOGITS, CLASSES).weights.tolist() == (CLASSES != 2).double().tolist()


def test_our_losses_are_torchs():
    cases = [
        (rg.MSE(), nn.MSELoss(), A, B),
        (rg.BCE(), nn.BCEWithLogitsLoss(), A, B),
        (rg.CrossEntropy(label_smoothing=0.2), nn.CrossEntropyLoss(label_smoothing=0.2), IMAGE, HOLES),
        (
            rg.NextToken(),
            lambda o, t: functional.cross_entropy(o.flatten(0, 1), t.flatten()),
            IMAGE.flatten(2).mT,
            HOLES.flatten(1),
        ),
    ]
    for loss, criterion, output, target in cases:
        torch.testing.assert_close(mean(loss.per_unit(output, target)), criterion(output, target), rtol=1e-13, atol=0)
    assert rg.BCE().per_unit(A, B.round().long()).values.tolist() == rg.BCE().per_unit(A, B.round()).values.tolist()


def test_criteria_print_every_setting_and_are_copied():
    criterion = nn.HuberLoss(delta=0.5, reduction="mean")
    loss = as_loss(criterion)
    criterion.delta = 9.0
    assert repr(loss) == "FromCriterion(HuberLoss(delta=0.5))"
    assert criterion.reduction == "mean"
    assert (
        repr(as_loss(nn.KLDivLoss(reduction="batchmean"))) == "FromCriterion(KLDivLoss(log_target=False), summed=True)"
    )
    printed = {repr(as_loss(nn.CrossEntropyLoss(weight=torch.arange(1.0, n)))) for n in (20, 21, 22)}
    assert len(printed) == 3
    assert repr(as_loss(nn.CrossEntropyLoss(weight=torch.arange(1.0, 20)))) in printed
    assert as_loss(nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=7)) == rg.CrossEntropy(0.1, ignore=7)


def test_a_sum_is_taken_over_and_said():
    with pytest.warns(UserWarning, match="loss: the reduction 'sum' of MSELoss is taken over"):
        loss = as_loss(nn.MSELoss(reduction="sum"))
    torch.testing.assert_close(mean(loss.per_unit(A, B)), nn.MSELoss()(A, B), rtol=1e-13, atol=0)


class Contrastive(nn.Module):
    """Knows no unreduced form, whatever it is told."""

    reduction = "mean"

    def forward(self, output, target):
        return (output.sum() - target.sum()).square()


def per_example(model, batch):
    return (model(batch["x"]) - batch["y"]).square().mean(1)


REFUSED = [
    (
        lambda: as_loss(nn.CTCLoss()),
        r"CTCLoss, which is called with \(log_probs, targets, input_lengths, target_lengths\)",
    ),
    (
        lambda: as_loss(nn.TripletMarginLoss()),
        r"TripletMarginLoss, which is called with \(anchor, positive, negative\)",
    ),
    (lambda: as_loss(nn.GaussianNLLLoss()), r"GaussianNLLLoss, which is called with \(input, target, var\)"),
    (lambda: as_loss(nn.MSELoss), r"loss: got the class MSELoss; write MSELoss\(...\)"),
    (lambda: as_loss(nn.Linear(1, 1)), "a module without a reduction to take over; write a function"),
    (lambda: as_loss(functional.mse_loss), "mse_loss, a function of .output, target.; give the criterion"),
    (lambda: as_loss(lambda a: a), "allowed: a function .model, batch. -> per-example losses"),
    (lambda: as_loss(3), "loss: got 3; allowed: a Loss, a torch criterion, a function"),
    (
        lambda: as_loss(nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)),
        "a class of weight 0 and label smoothing",
    ),
    (lambda: as_loss(Contrastive()).per_unit(A, B), "Contrastive has no unreduced form: it gives one number"),
    (lambda: rg.MSE().per_unit(A[:, :1], B[:, 0]), r"output of shape \(7, 1\) and a target of shape \(7,\)"),
    (lambda: rg.BCE().per_unit(A[:, 0], B[:, :1]), r"output of shape \(7,\) and a target of shape \(7, 1\)"),
    (lambda: as_loss(lambda m, b: torch.zeros(3)).units({}, None, (A, B)), r"shape \(3,\) for a batch of 7 examples"),
    (lambda: as_loss(lambda m, b: A).units({}, None, (A, B)), r"shape \(7, 5\) .* allowed: \(7,\) or one number"),
    (lambda: as_loss(lambda m, b: 0.5).units({}, None, (A, B)), "gave 0.5; allowed: a tensor"),
    (lambda: as_loss(lambda m, b: A).units({}, None, "text"), "got a batch 'text' without a tensor"),
    (lambda: split((A,)), "in which no part is the target"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(rg.DeclarationError, match=message):
        make()


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_broadcasting_by_a_criterion_is_refused():
    for output, target in ((A[:, :1], B[:, 0]), (A[:, 0], B[:, :1])):
        with pytest.raises(rg.DeclarationError, match=r"which were broadcast to \(7, 7\); allowed: the same shape"):
            as_loss(nn.MSELoss()).per_unit(output, target)


@pytest.mark.parametrize(
    ("criterion", "ours"), [(nn.MSELoss(), rg.MSE()), (nn.BCEWithLogitsLoss(reduction="sum"), rg.BCE())]
)
@pytest.mark.parametrize("output", [A, A[:, 0], A.reshape(N, 5, 1)])
@pytest.mark.filterwarnings("ignore:loss. the reduction 'sum':UserWarning")
def test_a_plain_criterion_draws_targets_as_our_loss_of_the_same_numbers(criterion, ours, output):
    drawn = [
        loss.per_unit_drawn(output, output, torch.Generator().manual_seed(1)) for loss in (as_loss(criterion), ours)
    ]
    assert torch.equal(drawn[0].values, drawn[1].values)


@pytest.mark.parametrize(
    "criterion", [nn.CrossEntropyLoss(weight=WEIGHT), nn.BCEWithLogitsLoss(pos_weight=WEIGHT), nn.L1Loss()]
)
def test_another_criterion_draws_no_targets_and_is_named(criterion):
    loss = as_loss(criterion)
    sentence = (
        re.escape(f"loss: got {repr(loss)[:40]}")
        + ".*, which says no distribution.*cross-entropies without class weights"
    )
    with pytest.raises(rg.DeclarationError, match=sentence):
        loss.per_unit_drawn(LOGITS, CLASSES, torch.Generator())


def test_a_criterion_inside_another_loss_is_answered_with_ours():
    with pytest.raises(
        rg.DeclarationError, match=r"loss: got an instance of CrossEntropyLoss; write CrossEntropy\(\)$"
    ):
        rg.ZLoss(nn.CrossEntropyLoss())
    with pytest.raises(rg.DeclarationError, match=r"no component 'MSELoss'; write MSE\(\)$"):
        rg.ZLoss("MSELoss")


@pytest.mark.parametrize("function", [lambda output, y: functional.cross_entropy(output, y), lambda o, y: o.softmax(1)])
def test_a_function_of_output_and_target_is_told_what_it_is_called_with(function):
    work = rg.Workload(model=nn.Linear(5, 4), train=(A.float(), CLASSES), val=(A.float(), CLASSES), loss=function)
    sentence = r"Linear.*; a function is called with \(model, batch\).*\(output, target\) is a criterion: loss=nn.Cross"
    with pytest.raises(rg.UserCodeError, match=sentence):
        rg.run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=2, budget="1 steps"))


def test_an_error_inside_a_function_that_is_not_about_the_model_is_left_alone():
    with pytest.raises(TypeError) as why:
        as_loss(lambda model, batch: 1 + "x").units({}, nn.Linear(1, 1), (A, B))
    assert not hasattr(why.value, "__notes__")


def test_functions_are_called_with_model_and_batch():
    loss, batch = as_loss(per_example), {"x": A, "y": B}
    assert loss.units({}, nn.Identity(), batch).values.tolist() == (A - B).square().mean(1).tolist()
    assert repr(loss).startswith("FromFunction(")
    assert repr(loss).endswith(":per_example)")
    scaled = functools.partial(lambda model, batch, scale: scale * per_example(model, batch), scale=3.0)
    assert mean(as_loss(scaled).units({}, nn.Identity(), batch)) == 3.0 * mean(loss.units({}, nn.Identity(), batch))
    assert repr(as_loss(scaled)).endswith("<lambda>, scale=3.0))")


def test_a_scalar_weighs_its_examples():
    loss = as_loss(lambda model, batch: model(batch["x"]).mean())
    units = loss.units({}, nn.Identity(), {"x": A, "y": B})
    assert (units.values.item(), units.weights.tolist(), units.examples.tolist()) == (A.mean().item(), [7.0], [0])
    with pytest.raises(rg.DeclarationError, match=r"allowed: \(7,\) since separable=True"):
        rg.FromFunction(loss.function, separable=True).units({}, nn.Identity(), {"x": A, "y": B})


def test_what_is_known_to_be_separable():
    assert as_loss(nn.MSELoss()).separable
    assert rg.CrossEntropy().separable
    assert rg.FromFunction(per_example, separable=True).separable
    assert not as_loss(per_example).separable
    assert not as_loss(Contrastive()).separable


def test_adapters_stand_on_the_workload_and_name_no_place_on_disk():
    work = rg.Workload(model=lambda: nn.Linear(5, 5), train={"x": A, "y": B}, loss=per_example)
    assert str(Path.cwd()) not in repr(work)
    assert repr(work).endswith(":per_example))")


def test_classes_that_come_last_are_sent_to_next_token():
    with pytest.raises(rg.DeclarationError, match=r"loss: got an output of shape \(2, 7, 5\) .* loss=NextToken\(\)"):
        rg.CrossEntropy().per_unit(torch.zeros(2, 7, 5), torch.zeros(2, 7, dtype=torch.long))
