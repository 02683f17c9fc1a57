"""Noise on the inputs of what is trained on, of its standard deviation, at its address; and Bishop's decay."""

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.exact("AddNoise")
@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
def test_it_is_the_input_and_normal_numbers_times_std(std):
    x, y = torch.randn(4, 3, 2, generator=generator(1), dtype=torch.float64), torch.arange(4)
    batch = [x, torch.ones(4), y]
    found = rg.AddNoise(std).apply({}, batch, generator())
    assert torch.equal(found[0], x + std * torch.randn(x.shape, generator=generator(), dtype=x.dtype))
    assert found[1] is batch[1]
    assert found[2] is y
    assert type(found) is list


@pytest.mark.exact("AddNoise")
def test_of_a_linear_model_it_is_weight_decay_in_the_mean():
    """E (w (x + s z) - y)^2 = (w x - y)^2 + s^2 |w|^2: the mean gradient of 4,000 draws, within four standard errors."""
    x, y = torch.randn(1, 3, generator=generator(1), dtype=torch.float64), torch.ones(1, 1).double()
    w = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    s, draw, found = 0.4, generator(), []
    for _ in range(4000):
        noisy, _ = rg.AddNoise(s).apply({}, (x, y), draw)
        found.append(2 * (noisy @ w.T - y) * noisy)
    found = torch.cat(found)
    wanted = 2 * (x @ w.T - y) * x + 2 * s**2 * w
    assert ((found.mean(0) - wanted[0]).abs() < 4 * found.std(0) / 4000**0.5).all()


def test_validation_sees_clean_inputs_and_training_noisy_ones():
    seen = []

    class Net(nn.Linear):
        def forward(self, x):
            seen.append((self.training, x.detach().clone()))
            return super().forward(x)

    x, y = torch.zeros(8, 2), torch.zeros(8, 1)
    work = rg.Workload(model=lambda: Net(2, 1), train=(x, y), val=(x, y), loss=nn.MSELoss())
    run = Run(
        work,
        rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="2 steps", augment=[rg.AddNoise(0.5)]),
        0,
        count_flops=False,
    )
    seen.clear()
    list(run)
    first, second = (x for training, x in seen if training)
    assert 0.2 < first.std() < 0.9
    assert not torch.equal(first, second)
    seen.clear()
    run.validation.measure("val")
    assert not any(x.any() for _, x in seen)


def test_what_is_no_tensor_of_floats_is_refused():
    for batch in ((torch.zeros(2, 2, dtype=torch.long), torch.zeros(2)), {"x": torch.zeros(2)}):
        with pytest.raises(
            rg.DeclarationError,
            match="got a batch of type .*; allowed: a tuple or list that begins with a tensor of floats",
        ):
            rg.AddNoise().apply({}, batch, generator())
