"""Skill-it: shares in closed form, rounds that end when validation comes, a graph learned by trials of one's own."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import regimes as rg
from regimes.core.kinds import SourceView
from regimes.core.notation import parse
from regimes.core.progress import Progress
from regimes.engine.run import Run
from regimes.mixtures.skill_it import helped
from regimes.samplers.preview import draws
from regimes.testing.resume import resume_chain

NAMES = ["add", "copy", "sort"]
VIEW = SourceView(dict.fromkeys(NAMES, 12), lambda source, name: None)
GRAPH = np.array([[1.0, 0.5, 0.0], [0.2, 1.0, 0.7], [0.0, 0.0, 1.0]])
LOSSES = np.random.default_rng(2).uniform(0.0, 3.0, size=(7, 3))


def skills(graph=GRAPH, weights=(1, 1, 1), **fields):
    matrix = graph if isinstance(graph, str) else np.asarray(graph).tolist()
    return rg.SkillIt(**dict(zip(NAMES, weights)), graph=matrix, **fields)


def after(sampler, rounds):
    """The state after so many rounds of losses."""
    state = sampler.init(VIEW)
    for row in rounds:
        state = sampler.observe(state, {f"val:{name}:loss": float(v) for name, v in zip(sampler.aims, row)}, Progress())
    return state


def shares(sampler, rounds=()):
    return sampler.shares(after(sampler, rounds))


# -- shares ------------------------------------------------------------------------------------------------------------


@pytest.mark.exact("SkillIt")
def test_one_round_is_a_softmax_of_the_losses_that_each_source_helps_with():
    sampler = skills(eta=0.8, window=1)
    np.testing.assert_allclose(shares(sampler), softmax(0.8 * GRAPH.sum(1)), rtol=1e-12)
    for rounds in (LOSSES[:1], LOSSES[:4]):
        np.testing.assert_allclose(shares(sampler, rounds), softmax(0.8 * GRAPH @ rounds[-1]), rtol=1e-12)


@pytest.mark.exact("SkillIt")
def test_a_window_sums_the_losses_of_its_rounds_and_forgets_those_before():
    sampler = skills(eta=0.3, window=3)
    for count in range(1, 8):
        wanted = softmax(0.3 * GRAPH @ LOSSES[max(count - 3, 0) : count].sum(0))
        np.testing.assert_allclose(shares(sampler, LOSSES[:count]), wanted, rtol=1e-12)
    assert len(after(sampler, LOSSES)["losses"]) == 3


@pytest.mark.exact("SkillIt")
@pytest.mark.parametrize("fields", [{"eta": 0.0}, {"graph": np.zeros((3, 3)), "eta": 4.0}])
def test_without_a_rate_or_a_graph_the_shares_are_the_weights(fields):
    for weights in ((1, 1, 1), (1, 2, 5)):
        wanted = np.array(weights) / sum(weights)
        np.testing.assert_allclose(shares(skills(weights=weights, **fields), LOSSES), wanted, rtol=1e-15)


@pytest.mark.exact("SkillIt")
def test_without_a_rate_it_draws_what_the_mixture_of_its_weights_draws_bitwise():
    ours, theirs = skills(eta=0.0, weights=(1, 2, 5)), rg.Mixture(add=1, copy=2, sort=5)
    for one, other in zip(draws(ours, VIEW, 7, 3, 12), draws(theirs, VIEW, 7, 3, 12)):
        assert one.sources.tolist() == other.sources.tolist()
        assert one.indices.tolist() == other.indices.tolist()


def test_draws_follow_the_shares():
    sampler = skills(eta=0.8, window=1)
    drawn = np.concatenate([d.sources for d in draws(sampler, VIEW, 8, 3, 50)])
    np.testing.assert_array_less(np.abs(np.bincount(drawn) - 400 * softmax(0.8 * GRAPH.sum(1))), 1.0)


@pytest.mark.exact("SkillIt")
def test_renaming_the_skills_permutes_the_shares():
    plain = dict(zip(NAMES, shares(skills(weights=(1, 2, 3)), LOSSES)))
    for order in itertools.permutations(range(3)):
        # What is called NAMES[place] here is NAMES[order[place]] there.
        moved = list(order)
        weights = np.array([1, 2, 3])[moved]
        renamed = skills(GRAPH[np.ix_(moved, moved)], weights=weights.tolist())
        found = shares(renamed, LOSSES[:, moved])
        np.testing.assert_allclose(found, [plain[NAMES[place]] for place in order], rtol=1e-12)


@pytest.mark.exact("SkillIt")
def test_alone_every_skill_makes_multiplicative_weights_steps_on_its_own_loss():
    sampler = skills(np.eye(3), eta=0.4, window=4, weights=(1, 2, 5))
    p = np.array([1, 2, 5]) / 8
    for count, losses in enumerate(LOSSES, start=1):
        p = p * np.exp(0.4 * losses)
        if count > 4:  # a round that leaves the window is taken back
            p = p * np.exp(-0.4 * LOSSES[count - 5])
        p = p / p.sum()
        np.testing.assert_allclose(shares(sampler, LOSSES[:count]), p, rtol=1e-12)


def test_targets_may_be_others_than_the_sources():
    graph = np.array([[0.9], [0.1], [0.0]])
    sampler = skills(graph, targets=["exam"], eta=2.0, window=1)
    assert sampler.all_needs() == {"val:exam:loss"}
    np.testing.assert_allclose(shares(sampler, [[1.5]]), softmax(2.0 * 1.5 * graph[:, 0]), rtol=1e-12)


def test_a_round_ends_only_where_all_losses_have_come():
    sampler = skills()
    state = after(sampler, LOSSES[:2])
    for signals in ({}, {"val:add:loss": 1.0}, {f"val:{name}:loss": float("nan") for name in NAMES}):
        assert sampler.observe(state, signals, Progress())["losses"] == LOSSES[:2].tolist()


def test_losses_of_any_size_and_weights_of_nothing():
    found = shares(skills(np.eye(3), eta=5.0, window=1, weights=(1, 1, 0)), [[900.0, 899.9, 1e6]])
    np.testing.assert_allclose(found, [*softmax([0.5, 0.0]), 0.0], rtol=1e-9)


# -- in a run ----------------------------------------------------------------------------------------------------------

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = torch.stack([(X[:, 0] > 0), (X[:, 0] * X[:, 1] > 0)], 1).long()


def work(two=X):
    def net():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Tanh(), nn.Linear(8, 2))

    train = {name: (x[:40], Y[:40, place]) for place, (name, x) in enumerate({"one": X, "two": two}.items())}
    val = {name: (X[40:], Y[40:, place]) for place, name in enumerate(("one", "two"))}
    return rg.Workload(model=net, train=train, val=val, loss=nn.CrossEntropyLoss())


def regime(mixture, **fields):
    given = {"batch_size": 5, "budget": "30 steps", "evaluate": "4 steps", "optimizer": rg.SGD(lr=0.5)}
    return rg.Regime(mixture=mixture, **given | fields)


def run_of(mixture, count_flops=False, **fields):
    return Run(work(), regime(mixture, **fields), seed=3, count_flops=count_flops)


@pytest.mark.exact("SkillIt")
def test_a_run_deals_by_a_plain_account_of_its_own_validation():
    graph, seen, rounds = [[1.0, 0.5], [0.0, 1.0]], [], []
    run = run_of(rg.SkillIt(one=1, two=1, eta=3.0, window=2, graph=graph))
    dealt, owed = np.zeros(2), np.zeros(2)
    for step in range(30):
        losses = np.sum(rounds[-2:], axis=0) if rounds else np.ones(2)
        p = np.exp(3.0 * np.array(graph) @ losses)
        dealt += np.bincount(run.frame.plans[0].sources, minlength=2)
        owed += 5 * p / p.sum()
        np.testing.assert_array_less(np.abs(dealt - owed), 1.0 + 1e-9)
        record = run.step()
        if (step + 1) % 4 == 0:
            rounds.append([record.signals[f"val/{name}/loss"] for name in ("one", "two")])
            seen.append(p[0] / p.sum())
    assert len(rounds) == 7
    assert max(seen) - min(seen) > 0.02
    assert run.states["mixture"]["losses"] == rounds[-2:]


@pytest.mark.exact("SkillIt")
def test_the_graph_is_the_share_of_the_initial_loss_that_a_run_on_one_skill_alone_takes_away():
    run = run_of(rg.SkillIt(one=1, two=1, trial="6 steps"))
    records = [run.step() for _ in range(12)]
    assert all(record.signals["trial"] == "mixture" for record in records)
    rows = run.states["mixture"]["rows"]
    for place, name in enumerate(("one", "two")):
        plain = run_of(rg.Mixture(**{name: 1.0}))
        before = plain.validation.measure("val")
        plain.frame.prefix, plain.frame.plans = ("skill-graph", name), []
        plain.enter(first=True)
        losses = [plain.step().loss for _ in range(6)]
        assert [record.loss for record in records[6 * place : 6 * place + 6]] == losses
        end = plain.validation.measure("val")
        keys = [f"val/{target}/loss" for target in ("one", "two")]
        assert rows[place] == [max((before[key] - end[key]) / before[key], 0.0) for key in keys]
    assert rows[0][0] > 0.1
    assert "trial" not in run.step().signals


def test_in_a_later_phase_it_is_learned_from_the_weights_that_the_phase_begins_with():
    first = rg.Phase("first", budget="8 steps", mixture=rg.Mixture(one=1, two=1))
    second = rg.Phase("second", budget="8 steps", mixture=rg.SkillIt(one=1, two=1, trial="2 steps"))
    run = Run(work(), rg.Regime([first, second], batch_size=5, evaluate="4 steps", optimizer=rg.SGD(lr=0.5)), seed=3)
    for _ in range(8):
        run.step()
    losses = run.validation.measure("val")
    for _ in range(4):
        assert run.step().signals["trial"] == "mixture"
    assert run.states["mixture"]["initial"] == [losses["val/one/loss"], losses["val/two/loss"]]


def test_once_it_is_learned_the_first_batch_is_dealt_by_it():
    run = run_of(rg.SkillIt(one=1, two=1, eta=40.0, trial="6 steps"), batch_size=20)
    for _ in range(12):
        run.step()
    rows = np.array(run.states["mixture"]["rows"])
    p = softmax(40.0 * rows.sum(1))
    assert abs(p[0] - 0.5) > 0.1
    np.testing.assert_array_less(np.abs(np.bincount(run.frame.plans[0].sources, minlength=2) - 20 * p), 1.0)


def test_learning_is_charged_two_trials_and_three_validations():
    run = run_of(rg.SkillIt(one=1, two=1, trial="6 steps"), count_flops=True)
    step = run_of(rg.Mixture(one=1, two=1), count_flops=True, budget="1 steps", evaluate=None)
    step.step()
    validation = 2 * 40 * (4 * 8 + 8 * 2)
    for _ in range(12):
        run.step()
    assert run.work.flops == 0
    assert run.work.side_flops == 12 * step.work.flops + 3 * validation


def test_a_rate_of_nothing_finds_no_help():
    run = run_of(rg.SkillIt(one=1, two=3, eta=9.0, trial="2 steps"), optimizer=rg.SGD(lr=0.0))
    for _ in range(4):
        run.step()
    assert run.states["mixture"]["rows"] == [[0.0, 0.0], [0.0, 0.0]]
    mixture = run.phase.declaration.mixture
    assert mixture.shares(run.states["mixture"]).tolist() == [0.25, 0.75]


def test_what_makes_a_target_worse_is_no_help():
    assert helped([2.0, 1.0, 0.0, 1.0], [0.5, 1.5, 0.5, float("nan")]) == [0.75, 0.0, 0.0, 0.0]


def test_a_trial_that_breaks_off_finds_none_either():
    spoiled = work(two=torch.full_like(X, torch.nan))
    run = Run(spoiled, regime(rg.SkillIt(one=1, two=1, trial="6 steps")), seed=3)
    records = [run.step() for _ in range(7)]
    assert ["skipped" in record.signals for record in records] == [False] * 6 + [True]
    first, second = run.states["mixture"]["rows"]
    assert first[0] > 0.1
    assert second == [0.0, 0.0]


@pytest.mark.parametrize(
    "fields", [{}, {"lag": 2, "micro_batch": 2}, {"sampler": rg.CyclicalCurriculum(scoring="3 steps")}]
)
def test_resume_in_the_middle_of_learning_is_bitwise(fields):
    mixture = rg.SkillIt(one=1, two=1, eta=2.0, window=2, trial="3 steps")
    found = resume_chain(lambda: run_of(mixture, budget="12 steps", evaluate="2 steps", **fields), 24)
    assert not found, found


def test_samplers_inside_make_their_trials_after_the_graph():
    run = run_of(rg.SkillIt(one=1, two=1, trial="3 steps", sampler=rg.CyclicalCurriculum(scoring="4 steps")))
    owners = [record.signals.get("trial") for record in run]
    assert owners[:11] == ["mixture"] * 6 + ["mixture.sampler"] * 4 + [None]
    assert len(owners) == 40
    assert len(run.states["mixture"]["rows"]) == 2
    assert all(own["scores"] is not None for own in run.states["mixture"]["sources"].values())


# -- declaration -------------------------------------------------------------------------------------------------------


def test_printed_and_built_again():
    text = "SkillIt(code=1.0, prose=Linear(1.0, final=0.5), eta=Linear(0.5), window=2, graph=[[1.0, 0.5], [0.0, 1.0]])"
    assert repr(parse(text)) == text
    assert parse("SkillIt(code=1, prose=1, graph='learn')") == rg.SkillIt(code=1, prose=1)


REFUSED = [
    (lambda: rg.SkillIt(), "Mixture needs the weight of at least one source"),
    (lambda: skills(GRAPH[:2]), r"graph: got 2 rows of \[3, 3\] numbers; allowed: 3 rows, one a source, of 3 numbers"),
    (lambda: skills(GRAPH, targets=["a"]), "allowed: 3 rows, one a source, of 1 numbers, one a target"),
    (lambda: skills(-GRAPH), r"graph\.0\.0: got -1.0; allowed: a finite number >= 0"),
    (lambda: skills("learned"), "graph: got 'learned'; did you mean 'learn'?"),
    (lambda: skills(targets=["a", "a", "b"]), r"targets: got \['a', 'a', 'b'\]; allowed: each name once"),
    (lambda: run_of(rg.SkillIt(one=1), evaluate=None), "val:one:loss' is needed: say how often"),
    (lambda: run_of(rg.SkillIt(one=1, targets=["tow"])), "val:tow:loss' is needed, but sources of val: one, two"),
    (lambda: run_of(rg.SkillIt(one=1, three=1)), "the workload has no source 'three'"),
    (lambda: run_of(rg.SkillIt(one=1, trial="0 steps")), "trial: got '0 steps'; allowed: more than nothing"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(rg.DeclarationError, match=message):
        make()


def test_a_graph_beside_sources_that_are_not_in_the_order_of_its_rows_is_refused():
    graph = [[1, 0.5], [0, 1]]
    with pytest.raises(rg.DeclarationError) as why:
        rg.SkillIt(sort=1, add=1, graph=graph)
    assert str(why.value) == (
        "graph: got sources in the order sort, add, but the rows of a graph are theirs in alphabetical order; write them, "
        "and the graph, in the order add, sort"
    )
    with pytest.raises(rg.DeclarationError, match="in the order add, sort"):
        parse("SkillIt(sort=1, add=1, graph=[[1, 0.5], [0, 1]])")
    assert rg.SkillIt(sort=1, add=1) == rg.SkillIt(add=1, sort=1)  # a graph that is learned has no order
    given = rg.SkillIt(add=1, sort=1, graph=graph)
    assert parse(repr(given)) == given == given.replace("sort", 2).replace("sort", 1)
