"""Mixtures: counts that follow the weights, inner samplers that see their own source, schedules as weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

import regimes as rg
from regimes.core.kinds import DrawContext, SourceView
from regimes.core.notation import parse
from regimes.core.progress import Progress
from regimes.core.randomness import Streams
from regimes.samplers.preview import draws
from regimes.testing.resume import resume_chain, through_bytes

SIZES = {"web": 30, "code": 10, "prose": 20}
ORDER = list(SIZES)


def view(columns=None):
    return SourceView(SIZES, lambda source, name: (columns or {}).get((source, name)))


def counts_of(drawn):
    return np.bincount(drawn.sources, minlength=3)


# -- declaration -------------------------------------------------------------------------------------------------------


def test_printed_with_keywords_and_built_again():
    mixture = rg.Mixture(prose=rg.Linear(0.9, 0.5), code=0.25, random=True, sampler=rg.Stratified())
    text = "Mixture(code=0.25, prose=Linear(0.9, final=0.5), sampler=Stratified(), random=True)"
    assert repr(mixture) == text
    assert parse(text) == mixture
    assert rg.Mixture(code=1, prose=2) == rg.Mixture(prose=2.0, code=1.0)


def test_weights_are_knobs_addressed_by_source():
    base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="10 steps", mixture=rg.Mixture(code=0.8, prose=0.2))
    other = base.but({"mixture.code": "Linear(0.1, 0.5)", "mixture.web": 0.3})
    assert repr(other.phases[0].mixture) == "Mixture(code=Linear(0.1, final=0.5), prose=0.2, web=0.3)"
    assert [d.path for d in base.diff(other)] == ["mixture.code", "mixture.web"]
    with pytest.raises(rg.DeclarationError, match=r"mixture.code: got -1; allowed: a finite number >= 0"):
        base.but({"mixture.code": -1})


def test_the_sampler_of_the_phase_goes_inside():
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.1), batch_size=8, budget="1 epochs", sampler=rg.Sequential(), mixture=rg.Mixture(code=1)
    )
    assert regime.phases[0].mixture == rg.Mixture(code=1, sampler=rg.Sequential())
    assert regime.phases[0].sampler is None


REFUSED = [
    (lambda: rg.Mixture(), "Mixture needs the weight of at least one source"),
    (lambda: rg.Mixture(code=-0.5), "code: got -0.5; allowed: a finite number >= 0"),
    (lambda: rg.Mixture(code="many"), "code: got 'many'; allowed: a finite number >= 0"),
    (
        lambda: rg.Mixture(code=0, prose=0.0),
        "sources: got the weight 0 for every source; allowed: at least one above 0",
    ),
    (lambda: rg.Mixture(**{"my-code": 1}), "sources: got 'my-code'; allowed: a source whose name is a word"),
    (lambda: rg.Mixture(code=1, sampler=rg.AdamW()), "sampler: got an optimizer"),
    (lambda: rg.Mixture(cod=1).init(view()), "sources: the workload has no source 'cod'; did you mean 'code'?"),
    (lambda: rg.Run(work(), regime(mixture=rg.Mixture(b=1, d=1))), "mixture: the workload has no source 'd'"),
    (lambda: rg.Run(work(), regime(mixture=rg.Mixture(b=rg.Linear(1.0, -1.0)))), "mixture.b: Linear.* got -0.00"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(rg.DeclarationError, match=message):
        make()


# -- dealing -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda w: sum(w) > 1e-3),
    n=st.integers(1, 13),
    seed=st.integers(0, 99),
)
def test_counts_are_within_one_example_of_every_share_over_any_prefix(weights, n, seed):
    mixture, had = rg.Mixture(**dict(zip(ORDER, weights))), np.zeros(3)
    shares = np.array(weights) / sum(weights)
    for step, drawn in enumerate(draws(mixture, view(), n, seed=seed, batches=30), start=1):
        assert len(drawn.indices) == n
        had += counts_of(drawn)
        assert (np.abs(had - step * n * shares) < 1 + 1e-6).all()
        for position, name in enumerate(ORDER):
            own = drawn.indices[drawn.sources == position]
            assert ((own >= 0) & (own < SIZES[name])).all()


def test_counts_follow_scheduled_weights():
    mixture, batches = rg.Mixture(code=rg.Linear(0.0, 0.6), web=rg.Linear(0.9, 0.1), prose=0.3), 60
    had, owed = np.zeros(3), np.zeros(3)
    for step, drawn in enumerate(draws(mixture, view(), 5, seed=1, batches=batches)):
        f = step / batches
        weights = np.array([0.9 - 0.8 * f, 0.6 * f, 0.3])
        owed += 5 * weights / weights.sum()
        had += counts_of(drawn)
        assert (np.abs(had - owed) < 1).all()
    assert had[1] > 60


def test_inside_a_source_every_example_comes_once_an_epoch():
    seen = {name: [] for name in ORDER}
    for drawn in draws(rg.Mixture(web=3, code=1, prose=2), view(), 6, seed=0, batches=30):
        for position, name in enumerate(ORDER):
            seen[name] += drawn.indices[drawn.sources == position].tolist()
    for name, size in SIZES.items():
        assert np.bincount(seen[name], minlength=size).tolist() == [3] * size


def test_order_inside_a_batch_is_random():
    firsts = [int(d.sources[0]) for d in draws(rg.Mixture(web=1, code=1, prose=1), view(), 6, seed=4, batches=900)]
    assert stats.chisquare(np.bincount(firsts, minlength=3)).pvalue > 0.001


def test_dealing_by_chance_is_multinomial():
    drawn = list(draws(rg.Mixture(web=2, code=1, prose=1, random=True), view(), 4, seed=4, batches=2000))
    counts = np.array([counts_of(d) for d in drawn])
    assert stats.chisquare(counts.sum(0), [4000, 2000, 2000]).pvalue > 0.001
    webs = np.bincount(counts[:, 0], minlength=5)
    assert stats.chisquare(webs, 2000 * stats.binom.pmf(range(5), 4, 0.5)).pvalue > 0.001


@pytest.mark.parametrize("inside", [rg.WithReplacement(), rg.Reshuffle()], ids=repr)
def test_sources_draw_from_streams_of_their_own(inside):
    sizes = {"a": 1000, "b": 1000}
    mixture = rg.Mixture(a=1, b=1, sampler=inside)
    drawn = next(draws(mixture, SourceView(sizes, lambda s, n: None), 400, seed=0, batches=1))
    first, second = (drawn.indices[drawn.sources == place] for place in (0, 1))
    assert len(first) == len(second) == 200
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_weights_and_columns_of_the_sources_meet():
    columns = {("web", "weight"): np.arange(30.0), ("code", "weight"): np.ones(10)}
    mixture = rg.Mixture(web=1, code=1, sampler=rg.Weighted(correction=1.0))
    drawn = next(draws(mixture, view(columns), 20, seed=0, batches=1))
    chances = {0: np.arange(30) / 435.0, 1: np.full(10, 0.1)}
    sizes = {0: 30, 1: 10}
    wanted = [1 / (sizes[s] * chances[s][i]) for s, i in zip(drawn.sources.tolist(), drawn.indices.tolist())]
    assert drawn.weights == pytest.approx(wanted, rel=1e-12)
    passes = list(draws(rg.Mixture(web=1, code=1, sampler=rg.Sequential()), view(), 24, seed=0, batches=2))[1]
    code = passes.sources == 1
    assert passes.indices[code].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
    assert passes.columns["pass"][code].tolist() == [1] * 8 + [2] * 4
    assert passes.columns["pass"][~code].tolist() == [0] * 12


def test_lengths_stay_one_number_for_all_sources():
    columns = {(name, "length"): np.full(size, 16) for name, size in SIZES.items()}
    mixture = rg.Mixture(web=1, code=1, prose=1, sampler=rg.LengthCurriculum(8))
    drawn = next(draws(mixture, view(columns), 9, seed=0, batches=1))
    assert drawn.columns["length"] == 8
    assert drawn.columns["offset"].shape == (9,)


def test_a_carried_cursor_goes_on_where_sources_are_shared():
    def ctx(step):
        return DrawContext(view(), Streams(0, "second"), step, Progress(), ("second",))

    first, second = rg.Mixture(web=1, code=1), rg.Mixture(code=1, prose=1)
    cursor = first.start(view(), ("first",))
    state, code = first.init(view()), []
    for step in range(2):
        drawn = first.draw(state, cursor, 8, ctx(step))
        cursor, code = drawn.cursor, code + drawn.indices[drawn.sources == 1].tolist()
    cursor, state = through_bytes({"c": cursor})["c"], second.init(view())
    drawn = second.draw(state, cursor, 4, ctx(2))
    assert sorted(code + drawn.indices[drawn.sources == 1].tolist()) == list(range(10))
    assert drawn.cursor["sources"]["web"] == cursor["sources"]["web"]
    assert drawn.cursor["sources"]["prose"]["key"] == ["second", "prose"]


# -- in a run ----------------------------------------------------------------------------------------------------------


def work(order=("c", "a", "b")):
    g = torch.Generator().manual_seed(0)
    made = {
        name: (torch.randn(n, 3, generator=g), torch.randint(0, 2, (n,), generator=g))
        for name, n in zip("abc", (6, 12, 9))
    }
    return rg.Workload(
        model=lambda: nn.Linear(3, 2),
        train={name: made[name] for name in order},
        val={name: made[name] for name in "ab"},
        loss=nn.CrossEntropyLoss(),
        metrics={"acc": rg.Accuracy()},
    )


def regime(**more):
    return rg.Regime(**{"optimizer": rg.SGD(lr=0.2), "batch_size": 6, "budget": "2 epochs", **more})


def test_an_epoch_is_that_of_the_named_sources():
    run = rg.Run(work(), regime(mixture=rg.Mixture(a=1, c=1)))
    assert run.phase.length.total == 2 * (6 + 9)


def test_batches_come_from_the_sources_that_the_plan_names():
    job = work()
    run = rg.Run(job, regime(mixture=rg.Mixture(a=1, b=2)))
    order = list(run.view.sizes)
    while not run.finished:
        plan = run.frame.plans[0]
        x, y = run.read(plan)
        for row, (source, index) in enumerate(zip(plan.sources.tolist(), plan.indices.tolist())):
            own = job.sources["train"][order[source]].parts
            assert torch.equal(x[row], own["0"][index])
            assert y[row] == own["1"][index]
        assert np.bincount(plan.sources, minlength=3).tolist() == [0, 2, 4]
        run.step()


def test_inner_samplers_observe_the_losses_of_their_own_source():
    job = work()
    mixture = rg.Mixture(a=1, c=1, sampler=rg.LossWeighted(initial=9.0))
    run = rg.Run(job, regime(optimizer=rg.SGD(lr=0.0), mixture=mixture, budget="2 steps"), seed=3)
    order, seen = list(run.view.sizes), {"a": set(), "c": set()}
    while not run.finished:
        for source, index in zip(run.frame.plans[0].sources.tolist(), run.frame.plans[0].indices.tolist()):
            seen[order[source]].add(index)
        run.step()
    assert set(run.states["mixture"]["sources"]) == {"a", "c"}
    for name, kept in run.states["mixture"]["sources"].items():
        x, y = job.sources["train"][name].parts.values()
        true = nn.functional.cross_entropy(run.model(x), y, reduction="none").detach().double()
        for index, value in enumerate(kept["losses"].tolist()):
            assert value == (pytest.approx(true[index].item(), rel=1e-6) if index in seen[name] else 9.0)
    assert 0 < len(seen["a"]) < 6
    assert 0 < len(seen["c"]) < 9


def test_resume_chain_is_bitwise_with_feedback_lag_and_schedules():
    job = work()
    mixture = rg.Mixture(a=rg.Linear(1.0, 0.0), b=0.5, c=rg.Linear(0.0, 1.0), sampler=rg.LossWeighted(), random=False)
    for declared in (
        regime(mixture=mixture, lag=2, budget="10 steps"),
        regime(mixture=mixture.replace("sampler", rg.Stratified()), budget="10 steps"),
        regime(mixture=mixture.replace("random", True), budget="10 steps", batch_size=rg.Linear(3, 9)),
    ):
        assert resume_chain(lambda declared=declared: rg.Run(job, declared, seed=1), steps=10) == []


def test_the_weights_really_used_are_recorded():
    run = rg.Run(work(), regime(mixture=rg.Mixture(a=rg.Linear(1.0, 0.0), b=0.5), budget="10 steps"))
    records = list(run)
    assert [r.knobs["mixture.a"] for r in records] == pytest.approx([1.0, *(1 - s / 10 for s in range(1, 10))])


def test_weights_that_all_reach_zero_stop_the_draw():
    fading = rg.Linear(1.0, 0.5).then(rg.Constant(0.0), "50%")
    with pytest.raises(
        rg.DeclarationError, match="sources: every weight is 0 at step 2; allowed: at least one above 0"
    ):
        list(draws(rg.Mixture(web=fading, code=0), view(), 4, seed=0, batches=4))


# -- many sources ------------------------------------------------------------------------------------------------------


class Name(str):
    """A name that counts how often it is looked up or compared."""

    looked = 0

    def __hash__(self):
        Name.looked += 1
        return super().__hash__()

    def __eq__(self, other):
        Name.looked += 1
        return super().__eq__(other)


def lookups(count):
    """How often names are looked at, by what is done with a mixture of so many sources."""
    names = [Name(f"s{i}") for i in range(count)]
    mixture = rg.Mixture(one=1).with_values({"sources": tuple((name, 1.0) for name in names)})
    wide = SourceView(dict.fromkeys(names, 9), lambda source, name: None)
    found = []
    for doing in (
        lambda: mixture.init(wide),
        lambda: mixture.start(wide, ("main",)),
        lambda: [mixture.spec(name) for name, _ in mixture.children()],
        lambda: list(draws(mixture, wide, 64, seed=0, batches=3)),
    ):
        before = Name.looked
        doing()
        found.append(Name.looked - before)
    return found


def test_what_a_mixture_costs_grows_with_its_sources_and_no_faster():
    few, many = lookups(200), lookups(1600)
    for one, other in zip(few, many):
        assert other <= 10 * one
