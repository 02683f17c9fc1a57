"""M-FAC and the inverse of an empirical Fisher matrix against explicit matrices, the paper's recursions, and a twin."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.engine.run import Run
from regimes.optim import EmpiricalFisherInverse
from regimes.optimizers.second_order import empirical_fisher

D, M, DAMP = 40, 6, 1e-3


def rows(count, seed=0, size=D):
    draw = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-1, 1, size, dtype=torch.float64)
    return torch.randn(count, size, generator=draw, dtype=torch.float64) * scales


def filled(gradients, ngrads=M, damp=DAMP):
    fisher = EmpiricalFisherInverse(ngrads, gradients.shape[1], damp, dtype=torch.float64)
    for g in gradients:
        fisher.update(g)
    return fisher


def explicit(gradients, ngrads=M, damp=DAMP):
    """F of the last rows, zeros where there are fewer."""
    last = gradients[-ngrads:]
    return damp * torch.eye(gradients.shape[1]).double() + last.T @ last / ngrads


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8 * float(other.abs().max()))


@pytest.fixture(params=[None, 7], ids=["whole", "blocks"], autouse=True)
def _blocks(request, monkeypatch):
    """Everything also with a window that is taken a column at a time."""
    if request.param is not None:
        monkeypatch.setattr(empirical_fisher, "_BLOCK", request.param)


# -- the inverse ----------------------------------------------------------------------------------------------


@pytest.mark.exact("MFAC")
@pytest.mark.parametrize("count", [0, 1, 4, 6, 7, 15, 18])
def test_products_and_entries_are_those_of_the_explicit_inverse(count):
    """Before the window is full, when it is, and after it has wrapped around."""
    gradients, x = rows(count), rows(1, seed=1)[0]
    fisher, inverse = filled(gradients), torch.linalg.inv(explicit(gradients))
    close(fisher.mul(x), inverse @ x)
    close(fisher.diag(), inverse.diag())
    for i, j in ((0, 0), (3, 31), (31, 3), (39, 39)):
        assert fisher.entry(i, j) == pytest.approx(
            inverse[i, j].item(), rel=1e-8, abs=1e-8 * inverse.abs().max().item()
        )
    if count:
        close(fisher.newest(), inverse @ gradients[-1])
        close(fisher.newest(), fisher.mul(gradients[-1]))


@pytest.mark.exact("MFAC")
def test_an_empty_window_divides_by_the_damping():
    x = rows(1)[0]
    torch.testing.assert_close(filled(rows(0)).mul(x), x / DAMP, rtol=1e-14, atol=0)


@pytest.mark.exact("MFAC")
def test_of_one_gradient_it_is_sherman_and_morrison():
    (g, x), fisher = rows(2), EmpiricalFisherInverse(1, D, 0.3, dtype=torch.float64)
    fisher.update(g)
    torch.testing.assert_close(fisher.mul(x), x / 0.3 - g * (g @ x) / 0.09 / (1 + g @ g / 0.3), rtol=1e-10, atol=1e-12)


@pytest.mark.exact("MFAC")
def test_the_order_of_gradients_does_not_matter():
    gradients, x = rows(M), rows(1, seed=1)[0]
    mixed = gradients[torch.randperm(M, generator=torch.Generator().manual_seed(3))]
    close(filled(gradients).mul(x), filled(mixed).mul(x))


def lu_recursion(gradients, x, damp):
    """The paper's dynamic algorithm: D from an unpivoted LU of G G^T / lambda + m I, then B row by row."""
    m = len(gradients)
    work = gradients @ gradients.T / damp + m * torch.eye(m).double()
    for k in range(m):  # by hand, without pivots: U stays above
        for i in range(k + 1, m):
            work[i] = work[i] - work[i, k] / work[k, k] * work[k]
    d = torch.triu(work - m * torch.eye(m).double())
    denominators = m + d.diagonal()
    b = torch.eye(m).double() / damp
    for i in range(1, m):
        b[i, :i] = -(d[:i, i] / denominators[:i]) @ b[:i, :i]
    q = gradients @ x / damp  # g_i^T F_0^-1 x, then g_i^T F_{i-1}^-1 x
    for i in range(1, m):
        q[i:] = q[i:] - d[i - 1, i:] * q[i - 1] / denominators[i - 1]
    return x / damp - ((q / denominators) @ b) @ gradients


def woodbury(gradients, x, damp):
    """F_i^-1 from F_{i-1}^-1, one gradient after the other."""
    m, inverse = len(gradients), torch.eye(gradients.shape[1]).double() / damp
    for g in gradients:
        v = inverse @ g
        inverse = inverse - v.outer(v) / (m + g @ v)
    return inverse @ x


@pytest.mark.exact("MFAC")
def test_the_papers_recursion_and_sequential_woodbury_give_the_same_products():
    gradients, x = rows(M), rows(1, seed=1)[0]
    found = filled(gradients).mul(x)
    close(found, lu_recursion(gradients, x, DAMP))
    close(found, woodbury(gradients, x, DAMP))


@pytest.mark.exact("MFAC")
def test_a_window_in_float32_loses_no_digits_in_between():
    """The damping is a fifty millionth of the gradients' squares: in float32 it would be lost."""
    gradients = rows(M)
    fisher = EmpiricalFisherInverse(M, D, 1e-5)
    for g in gradients:
        fisher.update(g.float())
    expected = torch.linalg.solve(explicit(gradients.float().double(), damp=1e-5), gradients[-1].float().double())
    assert (fisher.newest().double() - expected).norm() < 1e-6 * expected.norm()


def test_what_has_no_factor_changes_nothing():
    """The same gradient twice, beside whose square the damping is lost: the second pivot is 1 - 1."""
    unit = torch.eye(D)[0].double()
    fisher = filled(unit[None], damp=1e-30)
    before = copy.deepcopy(fisher.state)
    with pytest.raises(torch.linalg.LinAlgError):
        fisher.update(unit)
    assert fisher.state["oldest"] == before["oldest"] == 1
    assert all(torch.equal(fisher.state[name], before[name]) for name in ("gradients", "products"))


def test_it_goes_on_from_a_state():
    gradients, x = rows(9), rows(1, seed=1)[0]
    fisher = filled(gradients[:7])
    after = EmpiricalFisherInverse(M, D, DAMP, state=copy.deepcopy(fisher.state))
    for one in (fisher, after):
        [one.update(g) for g in gradients[7:]]
    assert torch.equal(fisher.mul(x), after.mul(x))


# -- the rule -------------------------------------------------------------------------------------------------


def run_of(hand, rule, steps=100, **fields):
    x, y = hand.data()
    work = rg.Workload(
        model=lambda: hand.net().double(), train=(x.double(), y), val=(x.double(), y), loss=nn.CrossEntropyLoss()
    )
    return Run(work, rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps", **fields), seed=5)


@pytest.mark.exact("MFAC")
@pytest.mark.parametrize("micro", [None, 4])
def test_mfac_equals_a_plain_twin(hand, micro):
    """100 steps: the whole matrix, a solve, and the paper's velocity from zero, whose rate is ten times the base's."""
    run = run_of(hand, rg.MFAC(rg.SGD(lr=0.002, momentum=0.9), ngrads=8, damp=0.02), micro_batch=micro)
    twin, (x, y), seen = copy.deepcopy(run.model), hand.data(), []
    weights, sizes = list(twin.parameters()), [p.numel() for p in twin.parameters()]
    velocity = torch.zeros(sum(sizes)).double()
    for _ in range(100):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        run.step()
        loss = functional.cross_entropy(twin(x[indices].double()), y[indices])
        g = torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])
        seen.append(g)
        velocity = 0.9 * velocity + 0.1 * torch.linalg.solve(explicit(torch.stack(seen), 8, 0.02), g)
        with torch.no_grad():
            for p, part in zip(weights, velocity.split(sizes)):
                p -= 0.02 * part.view_as(p)
    for p, q in zip(run.model.parameters(), weights, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-10)


@pytest.mark.exact("MFAC")
def test_large_damping_is_the_base_rule_with_its_rate_divided(hand):
    alone = run_of(hand, rg.SGD(lr=0.1, momentum=0.9), steps=20)
    around = run_of(hand, rg.MFAC(rg.SGD(lr=0.1 * 1e14, momentum=0.9), ngrads=4, damp=1e14), steps=20)
    list(alone), list(around)
    for p, q in zip(alone.model.parameters(), around.model.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-11)


@pytest.mark.exact("MFAC")
def test_a_scheduled_damping_is_that_of_the_step_for_the_whole_window(hand):
    parameters, gradients = hand.given([(4, 3), (5,)], 12)
    expected, flat = torch.cat([p.detach().flatten() for p in parameters.values()]), []
    for number, given in enumerate(gradients):
        flat.append(torch.cat([g.flatten() for g in given]))
        expected = expected - 0.1 * torch.linalg.solve(explicit(torch.stack(flat), 4, 0.5 + number), flat[-1])
    rule = rg.MFAC(rg.SGD(lr=0.1), ngrads=4)
    hand.drive(rule, parameters, gradients, lambda rule, number: rule.with_values({"damp": 0.5 + number}))
    found = torch.cat([p.detach().flatten() for p in parameters.values()])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_in_groups_each_has_a_window_of_its_own(hand):
    rule = rg.MFAC(rg.SGD(lr=0.01), ngrads=4, damp=0.1)
    run = run_of(hand, rg.Groups([rg.Group("@vectors", rule), rg.Group("*", rule)]), steps=6)
    list(run)
    shapes = [tuple(run.states["optimizer"][str(i)]["window"]["gradients"].shape) for i in range(2)]
    assert shapes == [(4, 11), (4, 72)]


def test_a_carried_window_begins_anew_where_other_parameters_are_trained(hand):
    rule = rg.MFAC(rg.SGD(lr=0.01), ngrads=4, damp=0.1)
    phases = [
        rg.Phase("first", optimizer=rule, batch_size=16, budget="50%"),
        rg.Phase(
            "second",
            optimizer=rule,
            batch_size=16,
            budget="50%",
            trainable=["*.weight"],
            carry=["model", "optimizer.window", "optimizer.of"],
        ),
    ]
    run = Run(hand.workload(), rg.Regime(phases=phases, budget="6 steps"), seed=5)
    list(run)
    window = run.states["optimizer"]["window"]
    assert window["gradients"].shape == (4, 72)
    assert window["oldest"] == 3
    assert window["gradients"][3].count_nonzero() == 0


def test_gradients_too_large_for_the_damping_skip_the_step():
    """Every gradient is 1, beside which the damping is lost: two of them have no factor, and nothing is written."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    data = torch.ones(16, 1).double(), torch.full((16, 1), -0.5).double()
    work = rg.Workload(model=model, train=data, val=data, loss=rg.MSE())
    regime = rg.Regime(optimizer=rg.MFAC(rg.SGD(lr=0.0), ngrads=2, damp=1e-30), batch_size=16, budget="4 steps")
    run = Run(work, regime, seed=0)
    assert "skipped" not in run.step().signals
    before = copy.deepcopy(run.states["optimizer"]["window"])
    assert "the damping is too small" in run.step().signals["skipped"]
    after = run.states["optimizer"]["window"]
    assert after["oldest"] == before["oldest"]
    assert all(torch.equal(after[name], before[name]) for name in ("gradients", "products"))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: rg.MFAC(rg.SAM(rg.SGD(lr=0.1))), "cannot stand inside MFAC; write SAM(MFAC(...))"),
        (lambda: rg.MFAC(rg.SGD(lr=0.1), ngrads=0), "ngrads: got 0"),
        (lambda: rg.MFAC(rg.SGD(lr=0.1), damp=0), "damp: got 0"),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        make()
    assert sentence in str(why.value)
