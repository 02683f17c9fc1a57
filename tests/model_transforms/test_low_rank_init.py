"""Truncated starts: exact ranks, unchanged norms, and that nothing else moves."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.low_rank_init import effective_rank, truncated
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 4)).double()


def changed(*patterns, **settings):
    model = net()
    before = copy.deepcopy(model)
    result = rg.LowRankInit(patterns, **settings).fill(model, before, iter(()), Streams(0))
    assert dict(result.names) == {name: name for name, _ in model.named_parameters()}
    return dict(before.named_parameters()), dict(model.named_parameters())


@pytest.mark.exact("LowRankInit")
@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("name", ["0.weight", "2.weight"])
def test_exactly_r_singular_values_and_the_same_norm(name, rank, norm):
    before, after = changed(name, rank=rank, norm=norm)
    old, new = (torch.linalg.svdvals(p[name].detach().flatten(1)) for p in (before, after))
    assert (new > 1e-12 * new[0]).sum() == rank
    kept = old[:rank] if norm == "spectral" else old[:rank] * (old.norm() / old[:rank].norm())
    torch.testing.assert_close(new[:rank], kept, rtol=1e-12, atol=0)
    order = {"frobenius": "fro", "spectral": 2}[norm]
    norms = [torch.linalg.matrix_norm(p[name].detach().flatten(1), order).item() for p in (before, after)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-12)
    assert [n for n in before if not torch.equal(before[n], after[n])] == [name]


@pytest.mark.exact("LowRankInit")
def test_directions_are_those_of_the_largest_singular_values():
    """The best approximation of its rank, by Eckart and Young: what is lost is what the other values hold."""
    before, after = changed("2.weight", rank=3, norm="spectral")
    s = torch.linalg.svdvals(before["2.weight"].detach())
    lost = (before["2.weight"] - after["2.weight"]).detach().norm().item()
    assert lost == pytest.approx(s[3:].norm().item(), rel=1e-12)


@pytest.mark.exact("LowRankInit")
@pytest.mark.parametrize("rank", [6, 7, 1000])
def test_full_rank_is_the_identity(rank):
    before, after = changed("*", rank=rank)
    for name in before:
        whole = min(before[name].flatten(1).shape) <= rank if before[name].ndim > 1 else True
        assert torch.equal(before[name], after[name]) == whole


@pytest.mark.exact("LowRankInit")
def test_single_precision_keeps_the_norm_to_rounding():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    low = truncated(matrix, 4)
    assert low.dtype == torch.float32
    assert low.norm().item() == pytest.approx(matrix.norm().item(), rel=1e-6)
    assert torch.linalg.matrix_rank(low) == 4
    assert torch.equal(truncated(torch.zeros(3, 3), 1), torch.zeros(3, 3))


def test_vectors_stay_and_tied_matrices_are_cut_once():
    before, after = changed("*", rank=1)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"0.weight", "2.weight", "4.weight"}

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
            self.head.weight = self.wte.weight

    model = Tied()
    norm = model.wte.weight.norm().item()
    rg.LowRankInit("*.weight", rank=1).fill(model, model, iter(()), Streams(0))
    assert model.head.weight is model.wte.weight
    assert torch.linalg.matrix_rank(model.wte.weight.detach()) == 1
    assert model.wte.weight.norm().item() == pytest.approx(norm, rel=1e-6)


def test_on_entry_of_the_first_phase_it_makes_the_start_and_resumes():
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.1, momentum=0.9), batch_size=6, budget="4 steps", on_entry=rg.LowRankInit("0.weight", 2)
    )
    run, plain = (Run(tiny.workload("classes"), r, seed=2) for r in (regime, regime.but(on_entry=[])))
    assert torch.linalg.matrix_rank(run.model[0].weight.detach()) == 2
    torch.testing.assert_close(run.model[0].weight, truncated(plain.model[0].weight.detach(), 2), rtol=0, atol=0)
    assert torch.equal(run.model[4].weight, plain.model[4].weight)
    assert resume_chain(lambda: Run(tiny.workload("classes"), regime, seed=2), steps=4) == []


@pytest.mark.exact("LowRankInit")
def test_effective_rank_of_known_spectra():
    g = torch.Generator().manual_seed(3)
    u, v = (torch.linalg.qr(torch.randn(n, 4, generator=g, dtype=torch.float64)).Q for n in (7, 5))
    for s in ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, 0.0], [4.0, 2.0, 1.0, 0.5]):
        values = torch.tensor(s, dtype=torch.float64)
        wanted = sum(s) ** 2 / sum(x * x for x in s)
        assert effective_rank((u * values) @ v.T) == pytest.approx(wanted, rel=1e-9)
        assert effective_rank(-1e5 * (u * values) @ v.T) == pytest.approx(wanted, rel=1e-9)
    kernel = torch.randn(4, 3, 2, 2, generator=g)
    assert effective_rank(kernel) == effective_rank(kernel.reshape(4, 12))
    assert rg.effective_rank(torch.zeros(2, 2)) == 0.0


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.LowRankInit([], rank=1), "patterns: got no pattern"),
        (lambda: rg.LowRankInit("*", rank=0), "rank: got 0; allowed: an integer >= 1|rank: got 0"),
        (lambda: rg.LowRankInit("*", rank=1, norm="nuclear"), "norm: got 'nuclear'"),
        (lambda: rg.LowRankInit("9.*", rank=1).structure(net()), r"patterns\.0: got '9\.\*', which matches no"),
        (lambda: rg.LowRankInit("*.bias", rank=1).structure(net()), "which match no matrix but 0.bias, 2.bias"),
    ],
)
def test_what_fits_nothing_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
