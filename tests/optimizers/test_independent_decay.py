"""Weight decay that the rate's peak does not multiply: AdamW with lambda / peak."""

import pytest
import torch

import regimes as rg


class Independent(torch.optim.Optimizer):
    """Adam, and W <- W - s(t) lambda W with the schedule s alone, written out."""

    def __init__(self, parameters, decay):
        super().__init__(parameters, {"lr": 0.0})
        self.decay, self.share, self.t = decay, 1.0, 0

    @torch.no_grad()
    def step(self):
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                m = state["m"] = 0.9 * state.get("m", torch.zeros_like(p)) + 0.1 * p.grad
                v = state["v"] = 0.999 * state.get("v", torch.zeros_like(p)) + 0.001 * p.grad**2
                p.sub_(self.share * self.decay * p)
                p.sub_(group["lr"] * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8))


@pytest.mark.exact("AdamW")
@pytest.mark.parametrize("peak", [1e-3, 0.03])
def test_decay_over_the_peak_is_decay_by_the_schedule_alone(hand, peak):
    """100 steps in float64 with warm-up and cosine: the same decay at any peak."""
    decay, schedule = 0.02, rg.Cosine(1.0, warmup="10%")
    regime = rg.Regime(
        optimizer=rg.AdamW(lr=rg.Cosine(peak, warmup="10%"), weight_decay=decay / peak),
        batch_size=64,
        budget="100 steps",
    )

    def before(optimizer, record, number):
        optimizer.share = schedule(number / 100)
        optimizer.param_groups[0]["lr"] = peak * schedule(number / 100)

    def model():
        return hand.net().double()

    x, y = hand.data()
    work = rg.Workload(model=model, train=(x.double(), y), val=(x.double(), y), loss=torch.nn.CrossEntropyLoss())
    run = rg.Run(work, regime, seed=5)
    twin = [p.detach().clone().requires_grad_() for p in run.model.parameters()]
    optimizer = Independent(twin, decay)
    names = [name for name, _ in run.model.named_parameters()]
    for number in range(100):
        indices = torch.from_numpy(run.frame.plans[0].indices)
        record = run.step()
        before(optimizer, record, number)
        output = torch.func.functional_call(run.model, dict(zip(names, twin)), (x[indices].double(),))
        for p, g in zip(twin, torch.autograd.grad(torch.nn.functional.cross_entropy(output, y[indices]), twin)):
            p.grad = g
        optimizer.step()
    for p, wanted in zip(run.model.parameters(), twin):
        torch.testing.assert_close(p.detach(), wanted.detach(), rtol=0, atol=1e-10)
