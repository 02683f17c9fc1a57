"""Sizes as written down, draws by the chances of the paper, scores by a run of one's own."""

from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.samplers.cyclical_curriculum import easy_first
from regimes.samplers.preview import draws, view_of

SIZE = 40
SEQUENCES = {
    "cycle": [0.25, 0.5, 1.0, 0.5, 0.25, 0.5, 1.0, 0.5, 0.25],
    "sharp_cycle": [0.25, 0.5, 1.0, 0.25, 0.5, 1.0, 0.25],
    "increase": [0.25, 0.5, 1.0, 1.0, 1.0],
    "decrease": [1.0, 0.5, 0.25, 0.25, 0.25],
}


@pytest.mark.exact("CyclicalCurriculum")
@pytest.mark.parametrize("pacing", SEQUENCES)
def test_shares_are_those_of_the_paper(pacing):
    found = list(islice(rg.CyclicalCurriculum(pacing=pacing).shares(), len(SEQUENCES[pacing])))
    assert found == SEQUENCES[pacing]


def test_ends_are_reached_whatever_the_factor():
    found = list(islice(rg.CyclicalCurriculum(0.3, 0.8, 0.6).shares(), 8))
    assert found == pytest.approx([0.3, 0.5, 0.8, 0.48, 0.3, 0.5, 0.8, 0.48])


@pytest.mark.exact("CyclicalCurriculum")
def test_rounds_walk_once_through_so_many_examples():
    view = view_of(SIZE, {"loss": np.linspace(0.1, 3.0, SIZE)})
    sampler = rg.CyclicalCurriculum(by="loss")
    found = np.concatenate([d.indices for d in draws(sampler, view, 5, seed=1, batches=20)])
    place = 0
    for share in SEQUENCES["cycle"][:4]:
        members = found[place : place + int(share * SIZE)]
        assert len(set(members)) == len(members) == share * SIZE
        place += len(members)


@pytest.mark.exact("CyclicalCurriculum")
def test_the_constant_whole_is_reshuffling_bitwise():
    view = view_of(SIZE, {"loss": np.linspace(0.1, 3.0, SIZE)})
    one, other = (
        [d.indices.tolist() for d in draws(sampler, view, 7, seed=1, batches=20)]
        for sampler in (rg.CyclicalCurriculum(1.0, 1.0, by="loss"), rg.Reshuffle())
    )
    assert one == other


@pytest.mark.exact("CyclicalCurriculum")
def test_draws_have_the_chances_of_choice_without_replacement():
    """Pairs of three examples, their chances in closed form and those of numpy's own sequential draw."""
    losses = np.array([0.5, 1.0, 2.0])
    p = (1 / losses) / (1 / losses).sum()
    wanted = {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in ((0, 1), (0, 2), (1, 2))}
    assert sum(wanted.values()) == pytest.approx(1.0)
    generator, n = np.random.default_rng(4), 20_000
    ours = [tuple(easy_first(losses, 2, generator).tolist()) for _ in range(n)]
    theirs = [tuple(np.sort(generator.choice(3, 2, replace=False, p=p)).tolist()) for _ in range(n)]
    for found in (ours, theirs):
        counts = [found.count(pair) for pair in wanted]
        assert stats.chisquare(counts, [n * chance for chance in wanted.values()]).pvalue > 1e-3


@pytest.mark.exact("CyclicalCurriculum")
@pytest.mark.parametrize("seed", range(4))
def test_a_round_holds_the_examples_that_are_easy_and_not_those_at_their_places(seed):
    """A quarter, and a part of an example is one: 11 of 42. Eleven losses of 0 come before any other."""
    losses = np.full(42, 2.0)
    easy = np.random.default_rng(seed).choice(42, 11, replace=False)
    losses[easy] = 0.0
    found = np.concatenate(
        [d.indices for d in draws(rg.CyclicalCurriculum(by="loss"), view_of(42, {"loss": losses}), 1, seed, 33)]
    )
    assert sorted(found[:11]) == sorted(easy)
    assert len(set(found[11:32])) == 21
    assert set(easy) < set(found[11:32])


X = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def work():
    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2))

    return rg.Workload(model=net, train=(X, Y), loss=nn.CrossEntropyLoss(), eval_batch=16)


def run_of(sampler, budget="40 steps"):
    return Run(work(), rg.Regime(optimizer=rg.SGD(lr=0.3), batch_size=5, budget=budget, sampler=sampler), seed=3)


@pytest.mark.exact("CyclicalCurriculum")
def test_scores_are_the_losses_of_a_model_trained_in_uniform_order():
    run = run_of(rg.CyclicalCurriculum(scoring="20 steps"))
    trial = [run.step() for _ in range(20)]
    assert all("trial" in record.signals for record in trial)
    assert run.frame.step == 0
    # By hand: a run in uniform order, its streams below the address that the trial names.
    plain = run_of(rg.Reshuffle())
    plain.frame.prefix, plain.frame.plans = ("scoring",), []
    plain.enter(first=True)
    assert [record.loss for record in trial] == [plain.step().loss for _ in range(20)]
    plain.model.eval()
    wanted = nn.functional.cross_entropy(plain.model(X), Y, reduction="none").detach()
    torch.testing.assert_close(run.states["sampler"]["scores"], wanted.double(), rtol=1e-6, atol=0)


def test_scores_are_measured_in_evaluation_mode_and_charged():
    sampler = rg.CyclicalCurriculum(scoring="1 steps")
    run = run_of(sampler)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    record = run.step()  # the trial's only step, from the initial weights
    run.model.load_state_dict(before)
    work_of_a_step = run_of(rg.Reshuffle(), "1 steps")
    work_of_a_step.step()
    forward = 2 * SIZE * (4 * 8 + 8 * 2)
    assert run.work.side_flops == work_of_a_step.work.flops + forward
    assert run.work.flops == 0
    assert record.signals["trial"] == "sampler"
    # One step at rate 0.3 from the initial weights, on the examples that the trial drew.
    assert run.states["sampler"]["scores"].min() > 0


def test_scores_of_a_rate_of_nothing_are_the_initial_losses():
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.0), batch_size=5, budget="30 steps", sampler=rg.CyclicalCurriculum(scoring="2 steps")
    )
    run = Run(work(), regime, seed=3)
    run.model.eval()
    wanted = nn.functional.cross_entropy(run.model(X), Y, reduction="none").detach()
    run.model.train()
    run.step(), run.step()
    torch.testing.assert_close(run.states["sampler"]["scores"], wanted.double(), rtol=1e-6, atol=0)
    assert run.model.training


def test_the_first_batch_is_drawn_anew_once_the_scores_are_known():
    run = run_of(rg.CyclicalCurriculum(scoring="20 steps"))
    waiting = run.frame.plans[0].indices.tolist()
    for _ in range(20):
        run.step()
    members = run.frame.plans[0].indices.tolist()
    assert members != waiting
    assert "trial" not in run.step().signals
    members += run.frame.plans[0].indices.tolist()  # the first round: a quarter of 40
    scores = run.states["sampler"]["scores"]
    assert scores[members].mean() < scores.mean()


def test_a_scoring_run_skips_what_is_not_finite_and_such_an_example_is_the_hardest():
    x = X.clone()
    x[5, 0] = float("inf")
    data = rg.Workload(model=lambda: nn.Linear(4, 2), train=(x, Y), loss=nn.CrossEntropyLoss())
    declared = rg.Regime(optimizer=rg.SGD(lr=0.3), batch_size=5, budget="30 steps", sampler=rg.CyclicalCurriculum())
    run = Run(data, declared, seed=3)
    scoring = [run.step().signals for _ in range(30)]
    assert all("trial" in row for row in scoring)
    assert 0 < sum("skipped" in row for row in scoring) < 10
    scores = run.states["sampler"]["scores"]
    assert torch.isinf(scores).nonzero().flatten().tolist() == [5]


def test_a_scoring_run_that_diverges_ends_the_run():
    declared = rg.Regime(optimizer=rg.SGD(lr=1e30), batch_size=5, budget="30 steps", sampler=rg.CyclicalCurriculum())
    relu = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    run = Run(rg.Workload(model=relu, train=(X, Y), loss=nn.CrossEntropyLoss()), declared, seed=3)
    with pytest.raises(rg.RunFailed, match="the scoring run ended with: loss; lower its learning rate"):
        list(run)


def test_refused_with_a_sentence():
    with pytest.raises(rg.DeclarationError, match=r"end_share: got 0.2; allowed: from start_share \(0.5\) on"):
        rg.CyclicalCurriculum(0.5, 0.2)
    with pytest.raises(rg.DeclarationError, match="by: got 'loss', which holds numbers below 0"):
        rg.CyclicalCurriculum(by="loss").init(view_of(3, {"loss": np.array([1.0, -1.0, 2.0])}))


def test_inside_a_mixture_one_scoring_run_serves_all_sources():
    sources = {"a": (X[:24], Y[:24]), "b": (X[24:], Y[24:])}
    loss = nn.CrossEntropyLoss()
    workload = rg.Workload(model=lambda: nn.Linear(4, 2), train=sources, loss=loss)
    mixture = rg.Mixture(a=0.5, b=0.5, sampler=rg.CyclicalCurriculum(scoring="4 steps"))
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=4, budget="20 steps", mixture=mixture)
    run = Run(workload, regime, seed=0)
    assert sum("trial" in record.signals for record in run) == 4
    wanted = nn.functional.cross_entropy(run.model(X), Y, reduction="none").detach().double()
    own = run.states["mixture"]["sources"]
    torch.testing.assert_close(torch.cat([own["a"]["scores"], own["b"]["scores"]]), wanted, rtol=1e-6, atol=0)
