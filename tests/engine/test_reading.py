"""Batches from several sources: read in one go where the data lies together, else piece by piece; the same batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import regimes as rg
from regimes.engine.plan import Plan
from regimes.engine.reading import Reader
from regimes.sources import Tensors, TextWindows

CPU = torch.device("cpu")
TEXTS = {name: torch.randint(0, 256, (size,), dtype=torch.uint8) for name, size in (("a", 90), ("b", 41), ("c", 333))}


def plan(indices, sources=None, **columns) -> Plan:
    return Plan(0, np.array(indices), None if sources is None else np.array(sources), None, columns, {}, {})


def together() -> dict[str, TextWindows]:
    return TextWindows.several(TEXTS, 8)


def apart() -> dict[str, TextWindows]:
    return {name: TextWindows(text.clone(), 8) for name, text in TEXTS.items()}


@pytest.mark.parametrize(
    "drawn",
    [
        plan([3, 0, 1, 40, 3], [0, 1, 1, 2, 2]),
        plan([40, 0, 9], [2, 0, 0]),
        plan([1, 2], [1, 1]),
        plan([0, 10, 11, 15, 16, 56]),
        plan([3, 0, 1], [2, 1, 0], length=3, offset=np.array([5, 0, 2])),
        plan([3, 0, 1], [2, 1, 0], length=np.int64(5)),
    ],
)
def test_texts_that_lie_together_are_read_as_if_alone(drawn):
    sizes = [len(source) for source in apart().values()]
    assert sizes == [11, 5, 41]
    numbers = drawn.sources if drawn.sources is not None else np.searchsorted(np.cumsum(sizes), drawn.indices, "right")
    indices = drawn.indices if drawn.sources is not None else drawn.indices - np.cumsum([0, *sizes])[numbers]
    rows = []
    for place, (index, number) in enumerate(zip(indices, numbers)):
        length = int(drawn.columns.get("length", 8))
        start = index * 8 + (drawn.columns["offset"][place] if "offset" in drawn.columns else 0)
        rows.append(list(TEXTS.values())[number][start : start + length + 1].long())
    expected = torch.stack(rows)
    for sources in (together(), apart()):
        x, y = Reader(sources, CPU)(drawn)
        assert torch.equal(x, expected[:, :-1])
        assert torch.equal(y, expected[:, 1:])
        assert x.dtype == y.dtype == torch.int64


def test_only_texts_of_one_tensor_are_read_as_one():
    a, b, c = together().values()
    assert a.beside([b, c]) is not None
    assert c.beside([a]) is not None
    other = next(iter(apart().values()))
    assert a.beside([other]) is None
    assert a.beside([Tensors(torch.zeros(3), torch.zeros(3))]) is None
    assert a.beside([TextWindows(b.tokens, 7)]) is None
    assert a.beside([TextWindows(b.tokens.view(torch.int8), 8)]) is None


def test_reading_copies_no_text():
    sources = together()
    whole = sources["a"].beside([sources["b"]])
    assert whole.tokens.data_ptr() == sources["a"].tokens.data_ptr()
    assert len(whole) == len(sources["a"]) + len(sources["b"])


def test_char_lm_reads_its_domains_as_one():
    job = rg.workloads.load("char_lm", width=8, layers=1, heads=1)
    first, *others = job.sources["train"].values()
    assert first.beside(others) is not None
