"""What samplers promise: every example once an epoch, classes in proportion, distributions, exact resume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader

import regimes as rg
from regimes.core.kinds import DrawContext
from regimes.core.progress import Progress
from regimes.core.randomness import Streams
from regimes.samplers.preview import at_progress, draws, preview, view_of
from regimes.samplers.shares import deal
from regimes.testing.resume import through_bytes

SIZE = 60
LABELS = np.random.default_rng(3).choice(4, size=SIZE, p=[0.5, 0.3, 0.15, 0.05])
COLUMNS = {"label": LABELS, "weight": np.arange(1.0, SIZE + 1), "length": np.full(SIZE, 32)}
VIEW = view_of(SIZE, COLUMNS)
SAMPLERS = {
    "sequential": rg.Sequential(),
    "reshuffle": rg.Reshuffle(),
    "with replacement": rg.WithReplacement(),
    "stratified": rg.Stratified(),
    "weighted": rg.Weighted(correction=1.0),
    "balanced": rg.Weighted("label", balanced=True),
    "loss-weighted": rg.LossWeighted(),
    "random subset": rg.RandomSubset(rg.Linear(0.2, 0.9)),
    "random subset anew": rg.RandomSubset(0.3, "with_replacement"),
    "random subset for good": rg.RandomSubset(0.4, "fixed"),
    "length": rg.LengthCurriculum(rg.Linear(8, 32), sampler=rg.Stratified()),
    "mixture": rg.Mixture(train=1.0, sampler=rg.LengthCurriculum(16)),
    "mixture by chance": rg.Mixture(train=1.0, random=True, sampler=rg.Stratified()),
}
EPOCHWISE = ("sequential", "reshuffle", "stratified", "length", "mixture", "mixture by chance")


def flat(drawn):
    """A draw as plain values."""
    columns = {name: np.asarray(value).tolist() for name, value in drawn.columns.items()}
    plain = [None if a is None else a.tolist() for a in (drawn.indices, drawn.weights, drawn.sources)]
    return plain, columns


@pytest.mark.parametrize("name", EPOCHWISE)
@pytest.mark.parametrize("n", [1, 7, 60, 77])
def test_every_example_comes_once_an_epoch(name, n):
    epochs = 7
    drawn = draws(SAMPLERS[name], VIEW, n, seed=5, batches=epochs * SIZE // n + 1)
    indices = np.concatenate([d.indices for d in drawn])
    mixed = name in ("stratified", "length", "mixture by chance")  # inside a batch, over the border of two epochs
    for epoch in range(1, epochs + 1):
        if not mixed or epoch * SIZE % n == 0:
            assert np.bincount(indices[: epoch * SIZE], minlength=SIZE).tolist() == [epoch] * SIZE
    assert np.ptp(np.bincount(indices, minlength=SIZE)) <= 1 + n // SIZE


@pytest.mark.parametrize("sampler", [rg.Reshuffle(), rg.Stratified()], ids=repr)
def test_every_epoch_and_every_seed_has_an_order_of_its_own(sampler):
    def order(seed):
        drawn = np.concatenate([d.indices for d in draws(sampler, VIEW, 1, seed=seed, batches=3 * SIZE)])
        return [drawn[LABELS[drawn] == 0].reshape(3, -1)[epoch].tolist() for epoch in range(3)]

    orders = order(0) + order(1)
    assert len({tuple(o) for o in orders}) == 6


@pytest.mark.parametrize("n", [1, 3, 8, 16])
def test_strata_are_exact_at_every_step_and_over_every_epoch(n):
    sizes, had = np.bincount(LABELS), np.zeros(4)
    for step, drawn in enumerate(draws(rg.Stratified(), VIEW, n, seed=2, batches=4 * SIZE), start=1):
        own = np.bincount(LABELS[drawn.indices], minlength=4)
        had += own
        assert (np.abs(had - step * n * sizes / SIZE) < 1.0).all()
        assert (np.abs(own - n * sizes / SIZE) < 2.0).all()
        if step * n % SIZE == 0:
            assert had.tolist() == (sizes * step * n // SIZE).tolist()


def test_strata_of_a_named_column_and_of_several_sources():
    group = {"a": np.array([0, 0, 1, 1]), "b": np.array([1, 1, 1, 1, 0, 0, 0, 0])}
    view = VIEW._replace(sizes={"a": 4, "b": 8}, column=lambda source, name: group[source] if name == "group" else None)
    batch = next(draws(rg.Stratified("group"), view, 6, seed=0, batches=1)).indices
    assert np.concatenate([group["a"], group["b"]])[batch].sum() == 3
    with pytest.raises(rg.DeclarationError, match="by: source 'a' has no column 'label'"):
        rg.Stratified().start(view, ("x",))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n", [4, 9])
def test_a_copied_cursor_draws_the_same_rest_at_any_step(name, n):
    sampler, streams, total = SAMPLERS[name], Streams(11, "main"), 40

    def context(step):
        at = Progress(step=step, fraction=step / total)
        return at_progress(sampler, at), DrawContext(VIEW, streams, step, at, ("main",))

    state, cursor, cursors, expected = sampler.init(VIEW), sampler.start(VIEW, ("main",)), [], []
    for step in range(total):
        live, ctx = context(step)
        cursors.append(through_bytes({"cursor": cursor})["cursor"])
        drawn = live.draw(state, cursor, n, ctx)
        expected.append(flat(drawn))
        cursor = drawn.cursor
    for begin in range(total):
        cursor = cursors[begin]
        for step in range(begin, min(begin + 3, total)):
            live, ctx = context(step)
            drawn = live.draw(sampler.init(VIEW), cursor, n, ctx)
            assert flat(drawn) == expected[step]
            cursor = drawn.cursor


@pytest.mark.parametrize("name", SAMPLERS)
def test_drawing_changes_neither_state_nor_cursor(name):
    sampler = at_progress(SAMPLERS[name], Progress())
    state, cursor = sampler.init(VIEW), sampler.start(VIEW, ("main",))
    ctx = DrawContext(VIEW, Streams(1), 0, Progress(), ("main",))
    later = sampler.draw(state, cursor, 7, ctx).cursor
    for place in (cursor, later):
        before = through_bytes({"state": state, "cursor": place})
        once, again = sampler.draw(state, place, 7, ctx), sampler.draw(state, place, 7, ctx)
        assert flat(once) == flat(again)
        after = through_bytes({"state": state, "cursor": place})
        assert str(before) == str(after)


DISTRIBUTIONS = {
    "uniform": (rg.WithReplacement(), np.ones(SIZE)),
    "loss-weighted at first": (rg.LossWeighted(), np.ones(SIZE)),
    "by column": (rg.Weighted(), COLUMNS["weight"]),
    "by class": (rg.Weighted("label", classes=[1.0, 2.0, 0.0, 4.0]), np.array([1.0, 2.0, 0.0, 4.0])[LABELS]),
    "balanced": (rg.Weighted("label", balanced=True), 1.0 / np.bincount(LABELS)[LABELS]),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution_by_chi_square(name):
    sampler, worth = DISTRIBUTIONS[name]
    indices = np.concatenate([d.indices for d in draws(sampler, VIEW, 100, seed=7, batches=300)])
    counts, chances = np.bincount(indices, minlength=SIZE), worth / worth.sum()
    assert counts[chances == 0].sum() == 0
    seen = chances > 0
    assert 0.001 < stats.chisquare(counts[seen], len(indices) * chances[seen]).pvalue < 0.999
    pairs = np.histogram2d(indices[:-1] % 6, indices[1:] % 6, bins=6)[0]
    assert stats.chi2_contingency(pairs).pvalue > 0.001  # successive draws are independent


def test_permutations_are_uniform_by_chi_square():
    firsts = [preview(rg.Reshuffle(), 4, 1, 4, seed=seed)[0] for seed in range(2400)]
    _, counts = np.unique(firsts, axis=0, return_counts=True)
    assert len(counts) == 24
    assert 0.001 < stats.chisquare(counts).pvalue < 0.999


class Grid:
    """Streams whose uniform numbers are the middles of equal parts: drawing all of them enumerates a distribution."""

    seed = 0

    def rng(self, *address):
        return self

    def random(self, n):
        return (np.arange(n) + 0.5) / n


def test_losses_that_are_all_zero_draw_uniformly():
    state = rg.LossWeighted(initial=1e-300).init(VIEW)
    state["losses"].zero_()
    ctx = DrawContext(VIEW, Streams(0, "main"), 0, Progress(), ("main",))
    drawn = rg.LossWeighted().draw(state, {}, 4000, ctx)
    assert drawn.weights.tolist() == [1.0] * 4000
    assert stats.chisquare(np.bincount(drawn.indices, minlength=SIZE)).pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.25, 0.5, 1.0])
def test_importance_weights_keep_the_mean_unbiased_by_enumeration(uniform):
    losses = torch.tensor([1.0, 2.0, 4.0, 1.0], dtype=torch.float64)
    sampler = rg.LossWeighted(uniform=uniform)
    ctx = DrawContext(view_of(4), Grid(), 0, Progress(), ())
    drawn = sampler.draw({"losses": losses}, {}, 64, ctx)  # every p_i is a multiple of 1/64
    chances = (1 - uniform) * losses.numpy() / 8 + uniform / 4
    assert np.bincount(drawn.indices).tolist() == (64 * chances).tolist()
    assert drawn.weights == pytest.approx(1 / (4 * chances[drawn.indices]), rel=1e-14)
    for values in (losses.numpy(), np.array([3.0, -1.0, 0.5, 10.0])):
        assert (drawn.weights * values[drawn.indices]).mean() == pytest.approx(values.mean(), rel=1e-14)
    half = sampler.with_values({"correction": 0.5}).draw({"losses": losses}, {}, 64, ctx)
    assert half.weights == pytest.approx(drawn.weights**0.5, rel=1e-14)


def test_weighted_corrects_to_the_uniform_mean_by_enumeration():
    values, weight = np.array([3.0, -1.0, 0.5, 10.0]), [1.0, 2.0, 4.0, 1.0]
    ctx = DrawContext(view_of(4, {"weight": weight}), Grid(), 0, Progress(), ())
    drawn = rg.Weighted(correction=1.0).draw({}, {}, 64, ctx)
    assert (drawn.weights * values[drawn.indices]).mean() == pytest.approx(values.mean(), rel=1e-14)
    assert rg.Weighted().draw({}, {}, 64, ctx).weights is None


def test_an_example_without_weight_is_never_drawn_not_even_at_the_edge():
    class Ends(Grid):
        def random(self, n):
            return np.array([0.0, 1.0 - 2**-53])

    ctx = DrawContext(view_of(4, {"weight": [0.0, 1.0, 2.0, 0.0]}), Ends(), 0, Progress(), ())
    assert rg.Weighted().draw({}, {}, 2, ctx).indices.tolist() == [1, 2]


def test_an_example_drawn_twice_keeps_its_last_loss():
    class Units:
        indices = torch.tensor([2, 0, 2, 2])

        def per_example(self):
            return torch.tensor([1.0, 5.0, 3.0, -4.0])

    state = rg.LossWeighted(initial=7.0).init(view_of(3))
    rg.LossWeighted().observe(state, {"units": Units()}, Progress())
    assert state["losses"].tolist() == [5.0, 7.0, 0.0]


def test_a_table_carried_from_another_declaration_is_not_used():
    ctx = DrawContext(VIEW, Streams(1), 0, Progress(), ())
    carried = rg.Weighted().start(VIEW, ())
    balanced = rg.Weighted("label", balanced=True)
    assert flat(balanced.draw({}, carried, 30, ctx)) == flat(balanced.draw({}, balanced.start(VIEW, ()), 30, ctx))
    with pytest.raises(rg.DeclarationError, match="by: got a place among strata by 'label'; carry no cursor here"):
        rg.Stratified("weight").draw({}, rg.Stratified().start(VIEW, ("k",)), 4, ctx)


REFUSED = [
    (lambda: rg.Weighted("label").start(view_of(2, {"label": [-1, 2]}), ()), "by: got weights that are negative"),
    (lambda: rg.Weighted().start(view_of(2, {"weight": [0.0, 0.0]}), ()), "by: got weights that are negative, not"),
    (lambda: rg.Weighted().start(view_of(2, {"weight": [1.0, np.nan]}), ()), "by: got weights that are negative, not"),
    (
        lambda: rg.Weighted("label", classes=[1.0]).start(VIEW, ()),
        "classes: got 1 weights for a column of int64 from 0 to 3",
    ),
    (lambda: rg.Weighted("label", classes=[1, 2], balanced=True), "classes: got weights of classes and balanced=True"),
    (lambda: rg.Weighted("label", classes=[1, -2]), r"classes.1: got -2.0; allowed: a finite number >= 0"),
    (lambda: rg.Stratified().start(view_of(2, {"label": [0.5, 1.0]}), ()), "by: got 'label', a column of real numbers"),
    (
        lambda: rg.Stratified().start(view_of(2, {"label": [[1], [2]]}), ()),
        r"by: got 'label', whose shape .* is \(2, 1\)",
    ),
    (lambda: rg.LengthCurriculum(), "length: LengthCurriculum needs a value for 'length'"),
    (lambda: rg.LengthCurriculum(0), "length: got 0; allowed: an integer >= 1"),
    (lambda: preview(rg.LengthCurriculum(8), 4, 1, 2), "sampler: source 'train' has no column 'length'"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(rg.DeclarationError, match=message):
        make()


@settings(max_examples=80, deadline=None)
@given(
    weights=st.lists(st.integers(0, 1000), min_size=1, max_size=9).filter(any),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    real=st.booleans(),
)
def test_dealing_is_within_one_of_every_share_after_every_draw(weights, sizes, real):
    weights = np.array(weights) / sum(weights) if real else np.array(weights)
    credit, had, total, rounding = weights * 0, np.zeros(len(weights)), 0, 1e-6 if real else 0.0
    for n in sizes:
        counts, credit = deal(credit, weights, n)
        assert counts.sum() == n
        assert (counts >= 0).all()
        had, total = had + counts, total + n
        assert (np.abs(had - total * weights / weights.sum()) < 1 + rounding).all()
    assert had[weights == 0].sum() == 0


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_dealing_never_fails_when_weights_jump(data):
    k = data.draw(st.integers(2, 6))
    credit = np.zeros(k)
    for _ in range(data.draw(st.integers(1, 20))):
        weights = np.array(data.draw(st.lists(st.integers(0, 20), min_size=k, max_size=k).filter(any)), float)
        n = data.draw(st.integers(1, 12))
        counts, credit = deal(credit, weights / weights.sum(), n)
        assert counts.sum() == n
        assert counts.min() >= 0
        assert counts[weights == 0].sum() == 0


# -- lengths -----------------------------------------------------------------------------------------------------------


def text_work(length=32, tokens=2000):
    source = rg.TextWindows(torch.arange(tokens) % 50, length)

    def model():
        return torch.nn.Sequential(torch.nn.Embedding(50, 4), torch.nn.Linear(4, 50))

    return rg.Workload(model=model, train=source, loss=rg.NextToken())


def test_lengths_follow_the_schedule_rounded_down_and_offsets_fill_the_window():
    sampler = rg.LengthCurriculum(rg.Linear(1, 40), multiple=8)
    drawn = list(draws(sampler, VIEW, 50, seed=0, batches=40))
    wanted = [min(max(int(1 + 39 * step / 40 + 0.5) // 8, 1) * 8, 32) for step in range(40)]
    assert [d.columns["length"] for d in drawn] == wanted
    for d in drawn:
        assert d.columns["offset"].min() >= 0
        assert (d.columns["offset"] + d.columns["length"]).max() <= 32
    eights = np.concatenate([d.columns["offset"] for d in drawn if d.columns["length"] == 8])
    counts = np.bincount(eights, minlength=25)
    assert len(counts) == 25
    assert stats.chisquare(counts).pvalue > 0.001


def test_short_steps_train_on_fewer_tokens_of_the_right_windows():
    work = text_work()
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.1),
        batch_size=4,
        budget="8 steps",
        sampler=rg.LengthCurriculum(rg.Linear(8, 32).then(rg.Constant(32), "50%")),
    )
    run, tokens, shapes = rg.Run(work, regime, seed=0), [], []
    while not run.finished:
        plan = run.frame.plans[0]
        x, y = work.sources["train"]["train"].fetch(plan.indices, plan.columns)
        starts = plan.indices * 32 + plan.columns["offset"]
        assert torch.equal(x[:, 0], torch.from_numpy(starts) % 50)
        assert torch.equal(y[:, :-1], x[:, 1:])
        shapes.append(x.shape[1])
        before = run.frame.tokens
        run.step()
        tokens.append(run.frame.tokens - before)
    assert shapes == [8, 8, 16, 24, 32, 32, 32, 32]
    assert tokens == [4 * length for length in shapes]


# -- outside a run -----------------------------------------------------------------------------------------------------


def test_torch_batches_in_a_data_loader():
    data = torch.arange(SIZE)
    batches = rg.TorchBatches(rg.Stratified(), SIZE, batch_size=6, batches=10, label=LABELS)
    first, second = (torch.stack(list(DataLoader(data, batch_sampler=batches))) for _ in range(2))
    for drawn in (first, second):
        assert sorted(drawn.flatten().tolist()) == list(range(SIZE))
    assert not torch.equal(first, second)


def test_preview_refuses_a_controller():
    class Loop(rg.core.kinds.Controller):
        pass

    with pytest.raises(rg.DeclarationError, match="correction: got a controller, whose value depends on a run"):
        preview(rg.Weighted(correction=Loop()), 4, 1, 2, weight=[1, 1, 1, 1])


def test_printed_forms_build_the_same_sampler():
    from regimes.core.notation import parse

    for sampler in SAMPLERS.values():
        assert parse(repr(sampler)) == sampler
