"""Recursive ridge regression: the joint solution whatever the order and the batches, a plain twin, streams of classes."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.testing.resume import resume_chain
from regimes.workloads.models import RandomFeatures

GAMMA, FEATURES, CLASSES = 0.3, 24, 4


def data(n=96, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=draw, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (n,), generator=draw)


def net():
    return RandomFeatures(6, FEATURES, CLASSES).double()


def with_bias():
    body = nn.Sequential(nn.Linear(6, FEATURES).requires_grad_(False), nn.ReLU(), nn.Linear(FEATURES, CLASSES))
    return body.double()


def workload(model=net, train=None, loss=None):
    train = train or data()
    return rg.Workload(model=model, train=train, val=train, loss=loss or nn.CrossEntropyLoss())


def run_of(model=net, train=None, loss=None, rule=None, seed=5, **fields):
    fields = {"batch_size": 16, "budget": "1 epochs"} | fields
    return Run(workload(model, train, loss), rg.Regime(optimizer=rule or rg.RecursiveRidge(GAMMA), **fields), seed=seed)


def drawn(run):
    """Make all steps; return what was drawn, in order."""
    found = []
    while not run.finished:
        found.append(torch.from_numpy(run.frame.plans[0].indices))
        run.step()
    return torch.cat(found)


def slot(run):
    return next(iter(run.states["optimizer"]["slots"].values()))


def rows(model, x):
    """The head's inputs, and a 1 behind where there is a bias."""
    *body, head = model if isinstance(model, nn.Sequential) else (model.expansion, nn.ReLU(), model.head)
    with torch.no_grad():
        phi = nn.Sequential(*body)(x)
    return phi if head.bias is None else torch.cat([phi, torch.ones(len(phi), 1, dtype=phi.dtype)], 1)


def joint(phi, wanted, gamma=GAMMA, weights=None):
    """(Phi^T D Phi + gamma I)^-1 Phi^T D Y."""
    left = phi.T if weights is None else phi.T * weights
    return torch.linalg.solve(left @ phi + gamma * torch.eye(phi.shape[1], dtype=phi.dtype), left @ wanted)


def one_hot(y):
    return nn.functional.one_hot(y, CLASSES).double()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-8)


@pytest.mark.exact("RecursiveRidge")
@pytest.mark.parametrize("model", [net, with_bias])
@pytest.mark.parametrize("batch", [1, 12, 24, 32, 96])  # fewer rows than features, as many, more
@pytest.mark.parametrize("seed", [0, 1])
def test_whatever_the_order_and_the_batches_the_weights_are_those_of_joint_ridge(model, batch, seed):
    run, (x, y) = run_of(model, batch_size=batch, seed=seed), data()
    phi = rows(run.model, x)
    assert sorted(drawn(run).tolist()) == list(range(len(x)))
    expected = joint(phi, one_hot(y))
    found = slot(run)
    close(found["solution"], expected)
    close(found["inverse"], torch.linalg.inv(phi.T @ phi + GAMMA * torch.eye(phi.shape[1], dtype=phi.dtype)))
    assert torch.equal(found["inverse"], found["inverse"].T)
    close(run.model(x), phi @ expected)


@pytest.mark.exact("RecursiveRidge")
def test_a_plain_twin_makes_the_same_steps():
    """The formula as it stands in the paper, inverse of the rows' side and all, after every step."""
    run, (x, y) = run_of(batch_size=7, budget="30 steps"), data()  # twice through the data: all counts twice
    phi, wanted = rows(run.model, x), one_hot(y)
    R, W = torch.eye(FEATURES, dtype=torch.float64) / GAMMA, torch.zeros(FEATURES, CLASSES, dtype=torch.float64)
    while not run.finished:
        p, t = (part[torch.from_numpy(run.frame.plans[0].indices)] for part in (phi, wanted))
        run.step()
        R = R - R @ p.T @ torch.linalg.inv(torch.eye(len(p), dtype=p.dtype) + p @ R @ p.T) @ p @ R
        W = W + R @ p.T @ (t - p @ W)
        close(slot(run)["inverse"], R)
        close(slot(run)["solution"], W)
        assert torch.equal(run.model.head.weight, slot(run)["solution"].T)


def test_micro_batches_and_single_precision_change_nothing_but_rounding():
    whole, parts = run_of(batch_size=32), run_of(batch_size=32, micro_batch=5)
    assert torch.equal(drawn(whole), drawn(parts))
    close(slot(whole)["solution"], slot(parts)["solution"])
    x, y = data()
    single = run_of(lambda: net().float(), train=(x.float(), y))
    phi = rows(copy.deepcopy(single.model), x.float()).double()  # what the model gives, in the precision it gives it
    drawn(single)
    assert slot(single)["solution"].dtype == torch.float64
    close(slot(single)["solution"], joint(phi, one_hot(y)))


def stream(train):
    """One phase per source, each once; memory and weights go on over the seams."""
    phases = [
        rg.Phase(name, budget="1 epochs", mixture=rg.Mixture(**{name: 1}), carry=["model", "optimizer"])
        for name in train
    ]
    regime = rg.Regime(phases=phases, optimizer=rg.RecursiveRidge(GAMMA), batch_size=8)
    return lambda: Run(workload(train=train), regime, seed=2)


@pytest.mark.exact("RecursiveRidge")
def test_a_stream_of_classes_ends_in_joint_ridge_and_what_has_not_come_is_zero():
    x, y = data()
    late = y == 3
    sources = {"first": (y < 2) & ~late, "mixed": (y == 2) | ((y == 0) & (x[:, 0] > 0)), "last": late}
    train = {name: tuple(part[where][: where.sum() // 8 * 8] for part in (x, y)) for name, where in sources.items()}
    run, seen = stream(train)(), []
    while not run.finished:
        name = run.phase.name
        run.step()
        if name not in seen:
            seen.append(name)
        if "last" not in seen:
            assert torch.equal(run.model.head.weight[3], torch.zeros(FEATURES, dtype=torch.float64))
    assert seen == ["first", "mixed", "last"]
    x, y = (torch.cat([part[place] for part in train.values()]) for place in (0, 1))
    close(slot(run)["solution"], joint(rows(run.model, x), one_hot(y)))
    assert run.model.head.weight[3].abs().max() > 0.01


def test_a_stream_resumes_bitwise():
    x, y = data()
    train = {"a": (x[:24], y[:24]), "b": (x[24:64], y[24:64])}
    assert resume_chain(stream(train), steps=8) == []


@pytest.mark.exact("RecursiveRidge")
def test_a_row_counts_by_the_weight_of_its_loss():
    """Padding not at all, an example that a sampler weighs by its weight: a weighted regression."""
    x, y = data()
    ignored = y.clone()
    ignored[::3] = -100
    run = run_of(train=(x, ignored))
    drawn(run)
    kept = ignored >= 0
    close(slot(run)["solution"], joint(rows(run.model, x[kept]), one_hot(y[kept])))
    weights = 1.0 + torch.arange(96) % 5
    run = run_of(sampler=Heavy(), budget="12 steps", batch_size=8)
    indices = drawn(run)
    phi = rows(run.model, x)[indices]
    close(slot(run)["solution"], joint(phi, one_hot(y)[indices], weights=weights[indices].double()))


class Heavy(rg.Reshuffle):
    """Gives every example an importance weight of its own."""

    is_default = False

    def draw(self, state, cursor, n, ctx):
        found = super().draw(state, cursor, n, ctx)
        return found._replace(weights=1.0 + found.indices % 5)


@pytest.mark.exact("RecursiveRidge")
def test_a_selection_decides_what_is_regressed_on():
    run, (x, y) = run_of(selector=rg.HighLoss(0.5), budget="1 steps", batch_size=16), data()
    indices = torch.from_numpy(run.frame.plans[0].indices)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(run.model(x[indices]), y[indices], reduction="none")
    phi = rows(run.model, x)
    run.step()
    chosen = indices[losses.topk(8).indices]
    close(slot(run)["solution"], joint(phi[chosen], one_hot(y)[chosen]))


@pytest.mark.exact("RecursiveRidge")
def test_numbers_are_regressed_on_as_they_are():
    x, _ = data()
    wanted = torch.stack([x[:, 0] ** 2, x[:, 1] - 3, x[:, 2], x[:, 3]], 1)
    run = run_of(train=(x, wanted), loss=nn.MSELoss())
    drawn(run)
    close(slot(run)["solution"], joint(rows(run.model, x), wanted))
    run = run_of(lambda: RandomFeatures(6, FEATURES, 1).double(), train=(x, wanted[:, :1]), loss=nn.MSELoss())
    drawn(run)
    close(slot(run)["solution"], joint(rows(run.model, x), wanted[:, :1]))


@pytest.mark.exact("RecursiveRidge")
def test_a_frozen_backbone_is_a_fixed_function_dropout_and_running_statistics_or_not():
    """Features are those of evaluation mode; running statistics stay as they are."""
    layers = nn.Linear(6, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU(), nn.Dropout(0.5), nn.Linear(FEATURES, CLASSES)

    def backbone():
        made = nn.Sequential(*layers).double()
        made[1].running_mean += 0.2
        return made

    run, (x, y) = run_of(copy.deepcopy(backbone()), trainable=["4.*"]), data()
    before = copy.deepcopy(run.model)
    modes = [module.training for module in run.model.modules()]
    drawn(run)
    assert [module.training for module in run.model.modules()] == modes
    assert torch.equal(run.model[1].running_mean, before[1].running_mean)
    assert run.model[1].num_batches_tracked == 0
    close(slot(run)["solution"], joint(rows(before.eval(), x), one_hot(y)))


def test_everything_but_the_head_stays_and_the_head_can_be_named():
    layers = nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES), nn.Linear(CLASSES, CLASSES)
    run, (x, y) = run_of(nn.Sequential(*layers).double(), rule=rg.RecursiveRidge(GAMMA, head="2")), data()
    before = copy.deepcopy(run.model)
    drawn(run)
    moved = {n for (n, p), q in zip(run.model.named_parameters(), before.parameters()) if not torch.equal(p, q)}
    assert moved == {"2.weight", "2.bias"}
    close(slot(run)["solution"], joint(rows(before[:3], x), one_hot(y)))


def test_one_unit_per_token():
    tokens = torch.randint(0, 9, (12, 5), generator=torch.Generator().manual_seed(0))
    wanted = (tokens * 7 + 2) % 5
    wanted[:, -1] = -100
    model = lambda: nn.Sequential(nn.Embedding(9, 7), nn.Linear(7, 5)).double()  # noqa: E731
    run = run_of(model, train=(tokens, wanted), loss=rg.NextToken(), batch_size=4)
    drawn(run)
    kept = wanted >= 0
    phi = torch.cat([run.model[0](tokens[kept]), torch.ones(int(kept.sum()), 1, dtype=torch.float64)], 1).detach()
    close(slot(run)["solution"], joint(phi, nn.functional.one_hot(wanted[kept], 5).double()))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: run_of(rule=rg.RecursiveRidge(head="haed")),
            "head: no linear layer 'haed' is trained; did you mean 'head'",
        ),
        (lambda: run_of(with_bias, trainable=["2.weight"]), "got '2', whose bias is not trained"),
        (lambda: run_of(lambda: nn.Sequential(nn.Embedding(9, 4)).double()), "and none is trained here"),
        (lambda: run_of(grad_transforms=[rg.ClipNorm(1.0)]), "RecursiveRidge makes no gradient"),
        (
            lambda: rg.Groups([rg.Group("*", rg.RecursiveRidge())]),
            "cannot stand inside Groups; allowed: RecursiveRidge alone, as the optimizer",
        ),
        (lambda: rg.SAM(rg.RecursiveRidge()), "base: got RecursiveRidge(), which makes no gradient"),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make()
    assert sentence in str(why.value)


class Twice(RandomFeatures):
    def forward(self, x):
        return super().forward(x) + super().forward(-x)


def distance(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def test_inputs_and_targets_that_do_not_belong_together_are_refused():
    run = run_of(train=(data()[0], data()[1].double()[:, None]), loss=distance)
    with pytest.raises(rg.UserCodeError) as why:
        run.step()
    said = "got targets of shape (16, 1) for 16 inputs of 'head', which has 4 outputs; allowed: a label or 4 numbers"
    assert said in str(why.value)


def test_a_layer_that_is_called_twice_is_refused_before_anything_is_spent():
    with pytest.raises(
        rg.DeclarationError, match="optimizer: got 'input:head' beside targets, but Linear was called 2 times"
    ):
        run_of(model=lambda: Twice(6, FEATURES, CLASSES).double())
