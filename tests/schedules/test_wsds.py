"""Several budgets from one run: the schedule step by step, and the river valley in which its effect has closed forms."""

import math

import pytest
import torch

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress


def table(schedule, steps):
    function = schedule.bind(percent_span(steps))
    return [function(Progress(fraction=t / steps, run_fraction=t / steps)) for t in range(steps + 1)]


def twin(peak, final, budgets, share, warm, steps):
    """Rates of all steps by the paper's formula: 1 / lr moves in a straight line before each budget."""
    found = []
    for t in range(steps):
        end = next((b for b in budgets if t < b), None)
        into = None if end is None else (t - end * (1 - share)) / (end * share)
        if t < warm:
            found.append(peak * t / warm)
        elif into is None or into < 0:
            found.append(peak)
        else:
            found.append(1 / ((1 - into) / peak + into / final))
    return found


@pytest.mark.exact("WSDS")
@pytest.mark.parametrize("warm", [0, 7])
@pytest.mark.parametrize("budgets", [(100,), (50, 100), (20, 50, 100), (30, 60), (25, 75, 90)])
def test_every_step_is_the_formula(budgets, warm):
    lr = rg.WSDS(0.3, [f"{b} steps" for b in budgets], "10%", 0.02, warmup=f"{warm} steps")
    found = table(lr, 100)
    assert found[:100] == pytest.approx(twin(0.3, 0.02, budgets, 0.1, warm, 100), rel=1e-12)
    assert [found[b] for b in budgets if b < 100] == [0.3] * sum(b < 100 for b in budgets)
    assert found[100] == (0.02 if budgets[-1] == 100 else 0.3)


@pytest.mark.exact("WSDS")
@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine", "exponential", "inverse"])
@pytest.mark.parametrize("warm", ["0%", "13%", "4 steps"])
def test_with_one_budget_it_is_wsd_to_the_bit(shape, warm):
    for decay in ("31%", "7 steps", "10%", "1 steps"):
        fields = {"decay": decay, "decay_shape": shape, "warmup": warm, "final": 0.011}
        for end in ("100%", "97 steps"):
            assert table(rg.WSDS(0.3, [end], **fields), 97) == table(rg.WSD(0.3, **fields), 97)


@pytest.mark.exact("WSDS")
def test_the_middle_of_a_decay_is_the_harmonic_mean_of_its_ends():
    s = rg.WSDS(0.3, ["40%", "100%"], "25%", 0.02)
    assert [s(0.35), s(0.875)] == pytest.approx([2 / (1 / 0.3 + 1 / 0.02)] * 2, rel=1e-14)


@pytest.mark.parametrize("warm", [0, 3])
def test_the_jump_back_is_on_the_very_step(warm):
    jumps = 0
    for steps in range(20, 160):
        for p in range(25, 100):
            k = p * steps // 100
            if p * steps % 100 or k <= warm + 8 or steps - k < 4:
                continue
            found = table(rg.WSDS(1.0, [f"{p}%", "100%"], "4 steps", warmup=f"{warm} steps"), steps)
            assert found[k - 5] == 1.0 > found[k - 2] > found[k - 1], (steps, p)
            assert found[k] == 1.0, (steps, p)
            jumps += 1
    assert jumps > 100


def test_a_percentage_is_of_the_budget_and_an_amount_the_same_for_each():
    of_each = table(rg.WSDS(1.0, ["50%", "100%"], "20%"), 100)
    alike = table(rg.WSDS(1.0, ["50%", "100%"], "20 steps"), 100)
    assert [sum(v < 1.0 for v in t[:50]) for t in (of_each, alike)] == [9, 19]
    assert of_each[50:] == alike[50:]


# -- the river valley ------------------------------------------------------------------------------------------------

SLOPE, CURVATURE, NOISE = 0.7, 0.8, 1.3


class Valley(torch.nn.Module):
    """Along the river x the loss falls by `SLOPE`; across it, y lies in a parabola, whose floor the examples shake."""

    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.y = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, shake):
        return -SLOPE * self.x + CURVATURE * self.y**2 / 2 + NOISE * shake * self.y


def valley():
    shakes = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(32)
    return rg.Workload(model=Valley, train=(shakes,), loss=lambda model, batch: model(batch[0]))


BUDGETS = (30, 60, 120)
LR = rg.WSDS(0.2, [f"{b} steps" for b in BUDGETS], "20%", 0.01, warmup="5 steps")


@pytest.mark.exact("WSDS")
def test_the_river_is_followed_by_exactly_the_sum_of_the_rates_and_the_walls_by_the_recursion():
    regime = rg.Regime(optimizer=rg.SGD(lr=LR), batch_size=1, budget="120 steps")
    run, shakes, y, rates = rg.Run(valley(), regime, 0), [], 1.0, []
    data = run.workload.sources["train"]["train"]
    while not run.finished:
        shakes.append(float(data.fetch(run.frame.plans[0].indices, {})[0]))
        record = run.step()
        rates.append(record.knobs["optimizer.lr"])
        y = (1 - rates[-1] * CURVATURE) * y - rates[-1] * NOISE * shakes[-1]
        assert run.model.y.item() == pytest.approx(y, rel=1e-12)
        assert run.model.x.item() == pytest.approx(SLOPE * math.fsum(rates), rel=1e-12)
    assert len(set(shakes)) == 2


@pytest.mark.exact("WSDS")
def test_the_height_over_the_river_is_that_of_the_rate_falls_in_a_decay_and_comes_back_after_it():
    """Mean square of y under independent shakes, by its recursion: m -> (1 - lr g)^2 m + (lr s)^2."""

    def settled(lr):
        return lr * NOISE**2 / (CURVATURE * (2 - lr * CURVATURE))

    fixed = settled(0.2)
    assert (1 - 0.2 * CURVATURE) ** 2 * fixed + (0.2 * NOISE) ** 2 == pytest.approx(fixed, rel=1e-14)
    assert CURVATURE / 2 * fixed == pytest.approx(0.2 * NOISE**2 / (2 * (2 - 0.2 * CURVATURE)), rel=1e-14)
    long = rg.WSDS(0.2, ["400 steps", "1200 steps"], "25%", 0.01)
    moments = [1.0]
    for lr in table(long, 1200)[:-1]:
        moments.append((1 - lr * CURVATURE) ** 2 * moments[-1] + (lr * NOISE) ** 2)
    assert [moments[300], moments[900]] == pytest.approx([fixed, fixed], rel=1e-12)
    # Solved, with the paper's rates: each shake fades by the factors of all later steps.
    for end in (400, 1200):
        solved, fade = 0.0, 1.0
        for lr in reversed(twin(0.2, 0.01, (400, 1200), 0.25, 0, end)):
            solved += fade * (lr * NOISE) ** 2
            fade *= (1 - lr * CURVATURE) ** 2
        assert moments[end] == pytest.approx(solved + fade, rel=1e-12)
        assert settled(0.01) < moments[end] < settled(0.2) / 8


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: rg.WSDS(1.0, []), "budgets: got none; allowed: one at least"),
        (lambda: rg.WSDS(1.0, ["50%", "30%"])(0.5), r"budgets: got \['50%', '30%'\]; allowed: moments in order"),
        (lambda: rg.WSDS(1.0, ["5%"], warmup="5%")(0.5), "budgets: got '5%'; allowed: after the warm-up"),
        (
            lambda: rg.WSDS(1.0, ["40%", "50%"], "30%")(0.5),
            "decay: got '30%'; allowed: decays that begin after the warm-up and the budget before, which that of '50%' does",
        ),
        (lambda: rg.WSDS(1.0, ["20%"], "50%", warmup="15%")(0.5), "decay: got '50%'; .* that of '20%' does not"),
        (lambda: rg.WSDS(1.0, ["50%"], "0%")(0.5), "decay: got '0%'; allowed: more than nothing"),
        (lambda: rg.WSDS(1.0, ["50%"], final=0.0), "decay_shape: got 'inverse' from 1 to 0"),
    ],
)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()
