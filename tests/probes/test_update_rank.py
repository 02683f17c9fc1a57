"""UpdateRank against closed forms, and in a run against what moved."""

import math

import pytest
import torch
from torch import nn

import regimes as rg


class Weights(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.w = nn.Parameter(weight)


def measured(update):
    """Of weights that were something else before."""
    before = torch.randn(update.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = rg.UpdateRank()(Weights(before + update), None, None, previous={"w": before})
    assert list(found) == ["stable_rank/w", "condition_number/w"]
    return tuple(found.values())


def matrix(*singular, rows=5, columns=4):
    draw = torch.Generator().manual_seed(1)
    u, v = (torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0] for n in (rows, columns))
    return u[:, : len(singular)] * torch.tensor(singular, dtype=torch.float64) @ v[:, : len(singular)].T


@pytest.mark.exact("UpdateRank")
@pytest.mark.parametrize(
    ("singular", "rank", "condition"),
    [((1.0, 1.0, 1.0, 1.0), 4.0, 1.0), ((3.0, 2.0, 1.0, 0.5), (9 + 4 + 1 + 0.25) / 9, 6.0)],
)
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_of_known_singular_values(singular, rank, condition, size):
    """Whatever the size of the step, and whichever side is longer."""
    for update in (matrix(*singular), matrix(*singular, rows=4, columns=9)):
        assert measured(size * update) == pytest.approx((rank, condition), rel=1e-9)


@pytest.mark.exact("UpdateRank")
def test_of_one_direction_the_rank_is_one():
    rank, condition = measured(matrix(2.0))
    assert rank == pytest.approx(1.0, abs=1e-12)
    assert condition == math.inf


@pytest.mark.exact("UpdateRank")
def test_of_nothing_it_is_zero_and_infinity():
    assert measured(torch.zeros(3, 2, dtype=torch.float64)) == (0.0, math.inf)


@pytest.mark.exact("UpdateRank")
def test_a_kernel_is_its_flattened_matrix():
    update = matrix(3.0, 2.0, 1.0, 0.5, rows=4, columns=12)
    assert measured(update.view(4, 3, 2, 2)) == pytest.approx(measured(update), rel=1e-9)


@pytest.mark.exact("UpdateRank")
def test_in_a_run_it_is_of_what_the_step_moved_and_of_matrices_alone():
    draw = torch.Generator().manual_seed(2)
    x, y = (torch.randn(64, n, generator=draw) for n in (6, 3))
    model = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))  # noqa: E731
    work = rg.Workload(model=model, train=(x, y), loss=nn.MSELoss())
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=16, budget="4 steps")
    run = rg.Run(work, regime)
    for record in rg.stream(work, regime, probes=[rg.UpdateRank(every="1 steps")]):
        before = {name: p.detach().clone() for name, p in run.model.named_parameters() if p.ndim == 2}
        run.step()
        assert len([name for name in record.signals if name.startswith("update_rank")]) == 2 * len(before) == 4
        for name, old in before.items():
            s = torch.linalg.svdvals(run.model.get_parameter(name).detach().double() - old.double())
            found = [record.signals[f"update_rank/{what}/{name}"] for what in ("stable_rank", "condition_number")]
            assert found == pytest.approx([((s**2).sum() / s[0] ** 2).item(), (s[0] / s[-1]).item()], rel=1e-9)
    assert run.finished


def test_without_the_weights_before_it_refuses():
    with pytest.raises(rg.DeclarationError, match="previous: needs a value"):
        rg.UpdateRank()(Weights(torch.ones(2, 2)), None, None)
