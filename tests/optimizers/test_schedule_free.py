"""Schedule-free rules against plain twins that keep x, y and z."""

import pytest
import torch

import regimes as rg


class Twin:
    """Algorithm 1 as it is written, three sequences in float64."""

    def __init__(self, theta):
        self.x = self.y = self.z = theta.detach().clone()
        self.v, self.total, self.t = torch.zeros_like(theta), 0.0, 0

    def step(self, g, lr, beta, decay, beta2=None, eps=0.0):
        self.t += 1
        direction = g
        if beta2 is not None:
            self.v = beta2 * self.v + (1 - beta2) * g * g
            direction = g / ((self.v / (1 - beta2**self.t)).sqrt() + eps)
        self.total += lr * lr
        c = lr * lr / self.total if self.total > 0 else 0.0
        self.z = self.z - lr * (direction + decay * self.y)
        self.x = (1 - c) * self.x + c * self.z
        self.y = (1 - beta) * self.z + beta * self.x


RATES = [0.0, 0.01, 0.02, 0.03] + [0.04] * 60 + [0.02] * 36  # a warm-up from 0, and a fall


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("beta", [0.9, 0.3, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_hundred_steps_equal_the_three_sequences(hand, name, beta, decay):
    parameters, gradients = hand.given([(4, 3), (5,)], 100)
    twins = {key: Twin(p) for key, p in parameters.items()}
    more = {}
    if name == "ScheduleFreeSGD":
        rule = rg.ScheduleFreeSGD(momentum=beta, weight_decay=decay)
    else:
        rule = rg.ScheduleFreeAdamW(betas=(beta, 0.95), weight_decay=decay, eps=1e-6)
        more = {"beta2": 0.95, "eps": 1e-6}
    state = rule.init(parameters)
    for lr, given in zip(RATES, gradients):
        live = rule.with_values({"lr": lr})
        state = live.step(state, parameters, hand.Stub(given))
        for twin, g in zip(twins.values(), given):
            twin.step(g, lr, beta, decay, **more)
    averaged = rule.evaluation_weights(state, parameters)
    for key, p in parameters.items():
        torch.testing.assert_close(p.detach(), twins[key].y, rtol=0, atol=1e-10)
        torch.testing.assert_close(averaged[key], twins[key].x, rtol=0, atol=1e-10)
        torch.testing.assert_close(state["slots"][key]["z"], twins[key].z, rtol=0, atol=1e-10)
    assert not torch.allclose(averaged["p0"], parameters["p0"]) or beta == 1.0


def test_interpolation_may_vary(hand):
    """x is recovered with the beta that y was made with, not with the present one."""
    parameters, gradients = hand.given([(6,)], 40)
    twin, rule = Twin(parameters["p0"]), rg.ScheduleFreeSGD(lr=0.05)
    state = rule.init(parameters)
    for number, given in enumerate(gradients):
        beta = 0.95 - 0.02 * number
        state = rule.with_values({"momentum": beta}).step(state, parameters, hand.Stub(given))
        twin.step(given[0], 0.05, beta, 0.0)
    torch.testing.assert_close(rule.evaluation_weights(state, parameters)["p0"], twin.x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_constant_rate_equals_the_package_of_the_authors_form(hand, name):
    reference = getattr(pytest.importorskip("pytorch_optimizer"), name)
    made = []

    def make(ps):
        made.append(reference(ps, lr=0.02))
        return made[0]

    parameters, gradients = hand.given([(4, 3)], 50)
    expected = hand.drive_torch(make, parameters, gradients)
    rule = getattr(rg, name)(lr=0.02)
    state = hand.drive(rule, parameters, gradients)
    torch.testing.assert_close(parameters["p0"], expected["p0"], rtol=1e-10, atol=1e-10)
    made[0].eval()
    averaged = rule.evaluation_weights(state, parameters)["p0"]
    torch.testing.assert_close(averaged, expected["p0"].detach(), rtol=1e-10, atol=1e-10)


def test_engine_judges_x_and_trains_y(hand):
    rule = rg.ScheduleFreeAdamW(lr=0.05)
    run = rg.Run(hand.workload(), rg.Regime(optimizer=rule, batch_size=16, budget="12 steps"), seed=2)
    records = list(run)
    weights, said = run.judged_weights()
    assert said == "evaluation"
    assert not torch.equal(weights["0.weight"], run.parameters["0.weight"])
    x, y = hand.data(32, 1)
    model = hand.net()
    model.load_state_dict({name: p.detach() for name, p in weights.items()})
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(x), y).item()
    assert records[-1].signals["val/loss"] == pytest.approx(loss, rel=1e-6)


def test_inside_groups_both_kinds_of_weights_are_put_together(hand):
    rule = rg.Groups([rg.Group("*.bias", rg.SGD(lr=0.1)), rg.Group("*", rg.ScheduleFreeSGD(lr=0.1))])
    run = rg.Run(hand.workload(), rg.Regime(optimizer=rule, batch_size=16, budget="5 steps"), seed=2)
    list(run)
    weights = run.evaluation_weights()
    assert list(weights) == list(run.parameters)
    assert weights["0.bias"] is run.parameters["0.bias"]
    assert not torch.equal(weights["0.weight"], run.parameters["0.weight"])


@pytest.mark.parametrize(
    "make", [lambda: rg.ScheduleFreeSGD(momentum=0.0), lambda: rg.ScheduleFreeAdamW(betas=(0, 0.9))]
)
def test_no_interpolation_is_refused(make):
    with pytest.raises(rg.DeclarationError, match=r"(momentum|betas\.0): got 0(\.0)?; allowed: .*> 0"):
        make()
