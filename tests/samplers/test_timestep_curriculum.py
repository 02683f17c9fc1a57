"""Noise levels by stages: which come when, a plain account of the pacing, and a loss that reads them."""

import numpy as np
import pytest
import torch

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.core.kinds import DrawContext
from regimes.core.progress import Progress
from regimes.core.randomness import Streams
from regimes.core.unit_losses import Units
from regimes.engine.run import Run
from regimes.samplers.preview import draws, view_of
from regimes.samplers.timestep_curriculum import timestep_difficulty
from regimes.testing.resume import resume_chain
from regimes.workloads.builtin import NoisePrediction
from regimes.workloads.synthetic import alpha_bar

VIEW = view_of(40, {"noise_level": np.ones(40)})


def levels_at(sampler, stage, n=4000):
    """Levels drawn in a stage."""
    state = sampler.init(VIEW) | {"stage": stage}
    ctx = DrawContext(VIEW, Streams(3, "main"), 7, Progress(), ("main",))
    return sampler.draw(state, sampler.start(VIEW, ("main",)), n, ctx).columns["noise_level"]


def observed(sampler, losses, at=Progress()):
    """Stages after each of some steps, whose losses were these; and the last state."""
    state, stages = sampler.init(VIEW), []
    for loss in losses:
        values = torch.tensor([loss - 0.125, loss + 0.125], dtype=torch.float64)
        units = Units(values, None, torch.arange(2), torch.arange(2))
        state = sampler.observe(state, {"units": units}, at)
        stages.append(state["stage"])
    return stages, state


# -- what is drawn -----------------------------------------------------------------------------------------------------


@pytest.mark.exact("TimestepCurriculum")
def test_one_cluster_is_uniform_from_the_same_generator_and_the_inner_sampler_bitwise():
    streams = Streams(3, "preview")
    ours = list(draws(rg.TimestepCurriculum(1), VIEW, 7, 3, 12))
    for step, (one, other) in enumerate(zip(ours, draws(rg.Reshuffle(), VIEW, 7, 3, 12))):
        assert one.indices.tolist() == other.indices.tolist()
        assert one.columns["noise_level"].tolist() == streams.rng("draw", step, "noise-level").random(7).tolist()


@pytest.mark.exact("TimestepCurriculum")
@pytest.mark.parametrize("direction", ["high_to_low", "low_to_high"])
@pytest.mark.parametrize("clusters", [1, 4, 20])
def test_the_last_stage_is_uniform_bitwise(clusters, direction):
    plain = levels_at(rg.TimestepCurriculum(1), 1)
    assert levels_at(rg.TimestepCurriculum(clusters, direction=direction), clusters).tolist() == plain.tolist()


@pytest.mark.exact("TimestepCurriculum")
def test_a_stage_draws_evenly_from_its_clusters_and_never_from_the_others():
    plain = levels_at(rg.TimestepCurriculum(1), 1)
    for stage in range(1, 6):
        share = stage / 5
        np.testing.assert_allclose(levels_at(rg.TimestepCurriculum(5), stage), 1 - share + share * plain, rtol=1e-15)
        low = levels_at(rg.TimestepCurriculum(5, direction="low_to_high"), stage)
        np.testing.assert_allclose(low, share * plain, rtol=1e-15)


def test_every_timestep_of_a_stage_has_the_same_chance():
    grid = (np.arange(6000) + 0.5) / 6000
    for stage in range(1, 5):
        t = (rg.TimestepCurriculum(4).levels(stage, grid) * 100).astype(int)
        counts = np.bincount(t, minlength=100)
        assert set(counts[: 100 - 25 * stage]) <= {0}
        assert set(counts[100 - 25 * stage :]) == {6000 // (25 * stage)}


def test_a_level_never_is_one():
    largest = np.array([np.nextafter(1.0, 0.0)])
    assert all(rg.TimestepCurriculum(n).levels(k, largest)[0] < 1.0 for n in (3, 7, 20) for k in range(1, n + 1))


# -- pacing ------------------------------------------------------------------------------------------------------------


class PlainPacer:
    """The pacing as one would write it down."""

    def __init__(self, clusters, patience, smoothing):
        self.clusters, self.patience, self.smoothing = clusters, patience, smoothing
        self.stage = 1
        self.begin()

    def begin(self):
        self.running, self.best, self.bad = None, float("inf"), 0

    def step(self, loss):
        if self.running is None:
            self.running = loss
        else:
            self.running = self.smoothing * self.running + (1 - self.smoothing) * loss
        if self.running < self.best:
            self.best, self.bad = self.running, 0
        else:
            self.bad += 1
        if self.bad > self.patience and self.stage < self.clusters:
            self.stage += 1
            self.begin()
        return self.stage


@pytest.mark.exact("TimestepCurriculum")
@pytest.mark.parametrize(("patience", "smoothing"), [(0, 0.0), (3, 0.0), (5, 0.9), (40, 0.99)])
def test_pacing_is_that_of_a_plain_account(patience, smoothing):
    noise = np.random.default_rng(5).normal(size=3000)
    losses = (0.3 + np.exp(-np.arange(3000) / 300) + 0.1 * noise).tolist()
    plain = PlainPacer(12, patience, smoothing)
    stages, _ = observed(rg.TimestepCurriculum(12, patience, smoothing), losses)
    assert stages == [plain.step(loss) for loss in losses]
    assert stages[-1] == 12
    assert len(set(stages)) == 12


def test_a_loss_that_stands_still_takes_patience_and_two_steps_a_stage():
    stages, _ = observed(rg.TimestepCurriculum(4, 10, 0.5), [1.0] * 40)
    assert [stages.index(stage) for stage in (2, 3, 4)] == [11, 23, 35]


def test_a_loss_that_falls_for_ever_stays_until_the_end_is_called():
    falling = [1.0 / (1 + step) for step in range(50)]
    sampler = rg.TimestepCurriculum(4, 0, 0.5, until="200 steps")
    assert observed(sampler, falling, Progress(phase_step=199))[0] == [1] * 50
    assert observed(sampler, falling, Progress(phase_step=200))[0] == [4] * 50
    half = rg.TimestepCurriculum(4, 0, 0.5)
    assert observed(half, falling, Progress(fraction=0.49))[0] == [1] * 50
    assert observed(half, falling, Progress(fraction=0.5))[0] == [4] * 50


def test_the_last_stage_forgets_and_stays():
    _, state = observed(rg.TimestepCurriculum(2, 0, 0.0), [1.0, 2.0, 0.5, 3.0])
    assert {key: state[key] for key in ("stage", "average", "best", "counter")} == {
        "stage": 2, "average": None, "best": None, "counter": 0
    }  # fmt: skip


# -- in a run ----------------------------------------------------------------------------------------------------------


def run_of(sampler, budget="40 steps", **fields):
    work = rg.workloads.load("two_moons_diffusion", n=64)
    given = {"optimizer": rg.SGD(lr=0.05), "batch_size": 8, "budget": budget, "sampler": sampler}
    return Run(work, rg.Regime(**given | fields), seed=3, count_flops=False)


def test_the_loss_takes_its_times_from_the_plan_and_its_noise_as_ever():
    source = rg.workloads.load("two_moons_diffusion", n=64).sources["train"]["train"]
    batch, loss, seen = source.fetch(np.arange(8), {}), NoisePrediction(), []

    def model(x, time):
        seen.append((x, time))
        return torch.zeros_like(x)

    torch.manual_seed(5)
    plain = loss.units({}, model, batch).values
    t = (seen[0][1] * 100 - 1).round().long()
    torch.manual_seed(5)
    level = (t.double() + 0.5) / 100
    same = loss.units({}, model, source.fetch(np.arange(8), {"noise_level": level.numpy()})).values
    assert torch.equal(plain, same)
    assert all(torch.equal(a, b) for a, b in zip(*seen))
    torch.manual_seed(5)
    loss.units({}, model, source.fetch(np.arange(8), {"noise_level": 0.37}))
    assert seen[2][1].tolist() == pytest.approx([0.38] * 8)
    left = alpha_bar(100)[37]
    noise = (seen[0][0] - alpha_bar(100)[t].sqrt()[:, None].float() * batch[0]) / (1 - alpha_bar(100)[t]).sqrt()[
        :, None
    ]
    torch.testing.assert_close(seen[2][0], (left.sqrt() * batch[0] + (1 - left).sqrt() * noise).float())


def test_a_run_trains_on_the_levels_of_its_stage():
    run, plain = run_of(rg.TimestepCurriculum(5, 1, 0.5, until="100%"), batch_size=16), PlainPacer(5, 1, 0.5)
    lows, stage = [], 1
    while not run.finished:
        levels = run.frame.plans[0].columns["noise_level"]
        assert levels.min() >= 1 - stage / 5
        lows.append(levels.min())
        loss = run.step().loss
        stage = plain.step(loss)
        assert run.states["sampler"]["stage"] == stage
    assert stage == 5
    assert lows[0] >= 0.8
    assert lows[-1] < 0.2


def test_resume_is_bitwise():
    sampler = rg.TimestepCurriculum(5, 1, 0.5, sampler=rg.LossWeighted())
    found = resume_chain(lambda: run_of(sampler, "12 steps", lag=1, micro_batch=3), 12, 2)
    assert not found, found


def test_in_a_mixture_every_source_has_its_own_stage():
    parts = {name: rg.workloads.load("two_moons_diffusion", n=64, seed=seed) for seed, name in ((0, "a"), (9, "b"))}
    some = parts["a"]
    train = {name: part.sources["train"]["train"] for name, part in parts.items()}
    work = rg.Workload(model=some.model, train=train, loss=some.loss)
    mixture = rg.Mixture(a=1.0, b=1.0, sampler=rg.TimestepCurriculum(6, 0, 0.0, until="100%"))
    regime = rg.Regime(optimizer=rg.SGD(lr=0.05), batch_size=8, budget="30 steps", mixture=mixture)
    run, apart = Run(work, regime, seed=3, count_flops=False), 0
    while not run.finished:
        plan, own = run.frame.plans[0], run.states["mixture"]["sources"]
        for position, name in enumerate("ab"):
            levels = plan.columns["noise_level"][plan.sources == position]
            assert levels.min() >= 1 - own[name]["stage"] / 6
        apart += own["a"]["stage"] != own["b"]["stage"]
        run.step()
    assert apart


# -- difficulty --------------------------------------------------------------------------------------------------------


@pytest.mark.exact("TimestepCurriculum")
def test_difficulty_is_the_relative_entropy_of_torch():
    table, mean, variance = alpha_bar(50), torch.tensor([0.5, -2.0]).double(), torch.tensor([0.04, 3.0]).double()
    marginals = [
        torch.distributions.Independent(
            torch.distributions.Normal(left.sqrt() * mean, (left * variance + 1 - left).sqrt()), 1
        )
        for left in table
    ]
    wanted = [torch.distributions.kl_divergence(now, before) for before, now in zip(marginals, marginals[1:])]
    torch.testing.assert_close(timestep_difficulty(table, mean, variance), torch.stack(wanted), rtol=1e-9, atol=1e-15)


def test_little_noise_is_difficult_and_standard_normal_data_are_never():
    point = timestep_difficulty(alpha_bar(100), torch.zeros(2), torch.zeros(2))
    assert (point.diff() < 0).all()
    assert timestep_difficulty(alpha_bar(100), torch.zeros(2), torch.ones(2)).abs().max() < 1e-15


# -- declaration -------------------------------------------------------------------------------------------------------


def test_refused_with_a_sentence():
    with pytest.raises(rg.DeclarationError, match="until: got '50 flops'; allowed: an amount in %, steps, samples"):
        rg.TimestepCurriculum(until="50 flops")
    regime = rg.Regime(optimizer=rg.SGD(), batch_size=8, budget="5 steps", sampler=rg.TimestepCurriculum())
    with pytest.raises(rg.DeclarationError, match="source 'train' has no column 'noise_level'"):
        Run(rg.workloads.load("digits_mlp"), regime, 0)


def test_data_that_would_ignore_the_levels_are_refused():
    """A column of that name is not enough: `fetch` has to read what the plan says."""
    rows = rg.Tensors(x=torch.randn(32, 2), noise_level=torch.rand(32))
    work = rg.Workload(
        model=lambda: torch.nn.Linear(2, 2),
        train=rows,
        val=rows,
        loss=lambda model, batch: model(batch["x"]).square().mean(1),
    )
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps", sampler=rg.TimestepCurriculum(4))
    with pytest.raises(
        DeclarationError, match="sampler: it says 'noise_level' of every example, which Tensors does not read"
    ):
        rg.run(work, regime, 0)
