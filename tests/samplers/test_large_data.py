"""Data of many examples: nothing of their number is made, a resume is bitwise, and what is small is as it was recorded."""

import hashlib
import tracemalloc

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.kinds import DrawContext, SourceView
from regimes.core.permutation import BLOCK, WHOLE, permutation
from regimes.core.progress import Progress
from regimes.core.randomness import Streams, philox
from regimes.core.source import Source
from regimes.samplers.preview import at_progress, draws, view_of
from regimes.testing.resume import resume_chain, through_bytes

MANY = 10**8
#: Nothing but what they remember of the examples that they drew grows with the data.
SAMPLERS = {
    "reshuffle": rg.Reshuffle(),
    "with replacement": rg.WithReplacement(),
    "sequential": rg.Sequential(),
    "random subset": rg.RandomSubset(rg.Linear(0.2, 0.9)),
    "random subset anew": rg.RandomSubset(0.3, "with_replacement"),
    "random subset for good": rg.RandomSubset(0.4, "fixed"),
    "small random subset for good": rg.RandomSubset(1e-4, "fixed"),
    "ordered prefix": rg.OrderedPrefix("random", over="30 steps"),
}


class Made(Source):
    """Examples that are made where they are read."""

    reads = ("pass", "length", "offset")

    def __init__(self, size):
        self._size = size

    def __len__(self):
        return self._size

    def fetch(self, indices, columns):
        x = torch.from_numpy(indices % 9973).float()[:, None] / 9973
        return x, x.square()

    def column(self, name):
        return torch.tensor(16).expand(self._size) if name == "length" else None

    def fingerprint(self):
        return f"made {self._size}"


def work(*sizes):
    train = Made(*sizes) if len(sizes) == 1 else {name: Made(size) for name, size in zip("abc", sizes)}
    return rg.Workload(model=lambda: nn.Linear(1, 1), train=train, loss=nn.MSELoss())


def regime(**more):
    return rg.Regime(**{"optimizer": rg.SGD(lr=0.1), "batch_size": 64, "budget": "30 steps", **more})


def peak(doing):
    """Most bytes that Python and numpy held at once beyond those of the beginning."""
    tracemalloc.start()
    try:
        doing()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- many examples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_drawing_from_many_makes_nothing_of_their_number(name):
    def draw(size):
        return list(draws(SAMPLERS[name], view_of(size), 64, seed=0, batches=70))

    draw(100)
    assert peak(lambda: draw(MANY)) < 1e7  # a byte of each example would be 1e8


@pytest.mark.parametrize(
    "declared",
    [
        *({"sampler": sampler} for sampler in SAMPLERS.values()),
        {"sampler": rg.LengthCurriculum(rg.Linear(8, 16))},
        {"mixture": rg.Mixture(a=1, b=2)},
        {"on_entry": [rg.GPTQ("weight", examples=100)]},
        {"batch_size": 16, "lag": 3},
    ],
    ids=repr,
)
def test_a_run_on_many_makes_nothing_of_their_number(declared, tmp_path):
    sizes = (1, 2) if "mixture" in declared else (1,)
    probes = (rg.GradientNoiseScale(small=2, parts=2, repeats=2),)

    def run(size):
        job = work(*(size * each for each in sizes))
        records = list(rg.stream(job, regime(**declared), probes=probes, out=tmp_path / str(size), checkpoint="50%"))
        assert "gradient_noise_scale" in records[-1].signals, records[-1].signals

    run(1000)
    assert peak(lambda: run(MANY)) < 1e7


@pytest.mark.parametrize("size", [WHOLE + 1, MANY])
@pytest.mark.parametrize("n", [64, BLOCK + 100])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_copied_cursor_draws_the_same_rest_inside_a_block(name, n, size):
    sampler, view, streams, total = SAMPLERS[name], view_of(size), Streams(11, "main"), 8

    def context(step):
        at = Progress(step=step, fraction=step / total)
        return at_progress(sampler, at), DrawContext(view, streams, step, at, ("main",))

    state, cursor, cursors, expected = sampler.init(view), sampler.start(view, ("main",)), [], []
    for step in range(total):
        live, ctx = context(step)
        cursors.append(through_bytes({"cursor": cursor})["cursor"])
        drawn = live.draw(state, cursor, n, ctx)
        expected.append(drawn.indices.tolist())
        cursor = drawn.cursor
    assert len(np.unique(expected)) > (100 if "small" in name else 7 * n)
    for begin in (1, 5):
        cursor = cursors[begin]
        for step in range(begin, total):
            live, ctx = context(step)
            drawn = live.draw(sampler.init(view), cursor, n, ctx)
            assert drawn.indices.tolist() == expected[step]
            cursor = drawn.cursor


@pytest.mark.parametrize(
    "declared",
    [
        {"sampler": rg.Reshuffle(), "lag": 2},
        {"sampler": rg.RandomSubset(0.3, "fixed"), "batch_size": rg.Linear(3, 90)},
        {"sampler": rg.OrderedPrefix("random", over="9 steps")},
        {"mixture": rg.Mixture(a=1, b=rg.Linear(1.0, 3.0), c=1)},
    ],
    ids=repr,
)
def test_a_run_resumes_bitwise_inside_a_block(declared):
    sizes = (MANY, WHOLE + 1, 50) if "mixture" in declared else (MANY,)
    job = work(*sizes)
    assert resume_chain(lambda: rg.Run(job, regime(**declared), seed=1), steps=9) == []


@pytest.mark.exact("Reshuffle")
def test_of_more_than_are_drawn_as_a_whole_each_comes_once_an_epoch():
    size, n = WHOLE + 7, 2**18 + 1
    drawn = np.concatenate([d.indices for d in draws(rg.Reshuffle(), view_of(size), n, seed=5, batches=2 * size // n)])
    epochs = drawn[:size], drawn[size:]
    assert np.array_equal(np.sort(epochs[0]), np.arange(size))
    assert len(np.unique(epochs[1])) == len(epochs[1])
    assert (epochs[0][: len(epochs[1])] == epochs[1]).sum() < 12  # 1 is expected


def test_rounds_of_a_part_of_many_are_what_they_are_of_few():
    size = WHOLE + 100
    for kind in ("without_replacement", "with_replacement", "fixed"):
        sampler, share = rg.RandomSubset(0.1, kind), -(-size // 10)
        first, second = (d.indices for d in draws(sampler, view_of(size), share, seed=2, batches=2))
        assert len(np.unique(first)) == len(np.unique(second)) == share
        both = len(np.intersect1d(first, second)) / share
        assert both == pytest.approx(
            {"without_replacement": 0.0, "with_replacement": 0.1, "fixed": 1.0}[kind], abs=0.01
        )
        assert (first == second).mean() < 0.01
    whole = [d.indices.tolist() for d in draws(rg.RandomSubset(1.0), view_of(size), 100, seed=2, batches=3)]
    assert whole == [d.indices.tolist() for d in draws(rg.Reshuffle(), view_of(size), 100, seed=2, batches=3)]


@pytest.mark.exact("OrderedPrefix")
def test_the_first_part_of_many_is_the_epoch_without_the_others():
    size, sampler = MANY, rg.OrderedPrefix("random", "step", 0.01, "9 epochs")
    found = np.concatenate([d.indices for d in draws(sampler, view_of(size), 100, seed=2, batches=20)])
    epoch = permutation(size, philox(2, "preview", "epoch", 0))[:300_000]
    ranks = permutation(size, philox(2, "preview", "order"))[epoch]
    assert found.tolist() == epoch[ranks < size // 100][:2000].tolist()


def test_strata_of_many_are_walked_through_once():
    size, n = WHOLE + 4000, 2**17
    labels = (np.arange(size) < 1000).astype(np.int64)
    drawn = [d.indices for d in draws(rg.Stratified(), view_of(size, {"label": labels}), n, seed=2, batches=size // n)]
    assert len(np.unique(np.concatenate(drawn))) == n * (size // n)
    for batch in drawn:
        assert labels[batch].sum() == pytest.approx(n * 1000 / size, abs=2)


def test_rounds_of_all_of_many_are_computed_where_they_are_read():
    size = WHOLE + 100
    scored = view_of(size, {"loss": np.ones(size)})
    cyclical = [
        d.indices for d in draws(rg.CyclicalCurriculum(start_share=1.0, by="loss"), scored, 64, seed=2, batches=9)
    ]
    plain = [d.indices for d in draws(rg.Reshuffle(), scored, 64, seed=2, batches=9)]
    assert np.array_equal(cyclical, plain)


# -- few examples, as they were before ---------------------------------------------------------------------------------

#: Of everything drawn, in the versions that drew every permutation as a whole: by size, and from three sources.
RECORDED = {
    "reshuffle": (rg.Reshuffle(), "6caaa638ef9d8f1b 107d307394348ec7 49dd80296d485526 562f8f03603d116f"),
    "without replacement": (
        rg.RandomSubset(0.3),
        "3412b1bc36d98217 48c2c054241201c6 10ea53b135398cac 481f43d68c859378",
    ),
    "with replacement": (
        rg.RandomSubset(0.3, "with_replacement"),
        "dfb4cfb56710ecac a86b0c38b52cd809 55a4cb6a46d71c61 197817c864e61fcb",
    ),
    "for good": (
        rg.RandomSubset(0.3, "fixed"),
        "9ed30b8679effe41 aa4c1a09777d0ae1 2160c1ee8e1ce36e 70b2b655362653bc",
    ),
    "growing": (
        rg.RandomSubset(rg.Linear(0.1, 1.0)),
        "4682c4a61ca91a4b 9b985e7ce19a59f9 4e6f398a81f080a3 b66997b2482d2719",
    ),
    "ordered prefix": (
        rg.OrderedPrefix("random", "linear", 0.1, "2 epochs"),
        "c0433063720d764b f005c8e6db81d84a a24f4539d589071b 2aaf566336a72595",
    ),
    "cyclical": (
        rg.CyclicalCurriculum(by="score"),
        "cf65e23bb9372781 cbee2c9c0d6d61c2 781029ec0ae7a951 3cf9504374ad4bde",
    ),
    "stratified": (rg.Stratified(), "22a4094bcd398677 e4a3ff886c175567 63f672e5301b7bee fd5a4fceddec263a"),
}


def digest(sampler, sizes, n, batches):
    """A digest of all draws from sources with labels and scores."""
    numbers = {name: np.arange(size) for name, size in sizes.items()}
    made = {name: {"label": i * 7 % 5, "score": 1.0 + i * 31 % 101} for name, i in numbers.items()}
    found = hashlib.sha256()
    for drawn in draws(sampler, SourceView(sizes, lambda source, name: made[source].get(name)), n, 3, batches):
        for each in (drawn.indices, drawn.sources):
            found.update(b"" if each is None else np.ascontiguousarray(each, dtype="<i8").tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", RECORDED)
def test_few_examples_come_in_the_order_that_was_recorded(name):
    sampler, expected = RECORDED[name]
    alone = [digest(sampler, {"train": s}, n, b) for s, n, b in ((60, 7, 60), (1000, 64, 80), (WHOLE, 2**18 + 5, 9))]
    mixed = digest(rg.Mixture(a=1.0, b=2.0, c=0.5, sampler=sampler), {"c": 90, "a": 40, "b": 1000}, 33, 60)
    assert " ".join([*alone, mixed]) == expected


def test_the_first_batches_of_ten_examples_are_those_that_were_recorded():
    found = [d.indices.tolist() for d in draws(rg.Reshuffle(), view_of(10), 4, seed=3, batches=5)]
    assert found == [[4, 3, 0, 6], [1, 8, 9, 7], [5, 2, 5, 6], [3, 2, 9, 8], [1, 4, 0, 7]]
