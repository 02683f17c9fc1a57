"""ZO2 is MeZO to the bit, wherever its blocks lie and whoever looks; offload brings them there and back."""

import contextlib

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError, RunFailed, UserCodeError
from regimes.core.trial import Trial
from regimes.diagnosis import weights_at
from regimes.engine import trees
from regimes.engine.evaluator import Evaluator
from regimes.integrations.offload import _MAPPED
from regimes.testing.resume import resume_chain

BLOCKS = ["blocks.*"]
KNOBS = {"lr": rg.Cosine(0.05), "eps": rg.Linear(2e-2, 1e-2), "weight_decay": 0.1}


class Net(nn.Module):
    """Blocks of matrices, a norm and a kernel that does not lie in rows, between two layers; the first two share a bias."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(16, 16),
                nn.LayerNorm(16),
                nn.Tanh(),
                nn.Unflatten(1, (4, 2, 2)),
                nn.Conv2d(4, 4, 2, padding=1),
            )
            for _ in range(3)
        )
        for block in self.blocks:
            block.to(memory_format=torch.channels_last)
        self.to(dtype)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)[:, :, :2, :2].flatten(1)
        return self.last(x)


def data(dtype=torch.float32, n=64):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    return x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def work_of(model=Net, dtype=torch.float32, train=None, val=True):
    return rg.Workload(
        model=lambda: model(dtype), train=train or data(dtype), val=data(dtype, 32) if val else None,
        loss=nn.CrossEntropyLoss(),
    )  # fmt: skip


def regime_of(rule, steps=30, **more):
    return rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps", **more)


def run_of(rule, model=Net, dtype=torch.float32, steps=30, looked_at=False, train=None, val=True, **more):
    run = rg.Run(work_of(model, dtype, train, val), regime_of(rule, steps, **more), seed=5, count_flops=False)
    run.looked_at = looked_at
    return run


def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


# -- the trajectory ----------------------------------------------------------------------------------------


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("looked_at", [False, True])
def test_it_is_mezo_to_the_bit(dtype, looked_at):
    """100 steps with rates and scales that vary: every loss and slope, and the weights once what was put off is written."""
    mezo = run_of(rg.MeZO(**KNOBS), dtype=dtype, steps=101)
    zo2 = run_of(rg.ZO2(blocks=BLOCKS, **KNOBS), dtype=dtype, steps=101, looked_at=looked_at)
    for _ in range(100):
        one, other = mezo.step(), zo2.step()
        assert one.signals == other.signals
        assert same(mezo.model, zo2.model) is looked_at
        assert same(mezo.model.first, zo2.model.first)
    assert set(zo2.states["optimizer"]["late"]) == (set() if looked_at else {f"blocks.{n}" for n in range(3)})
    zo2.flush()
    assert same(mezo.model, zo2.model)
    assert zo2.states["optimizer"]["late"] == {}


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize(
    "more",
    [
        {"micro_batch": 5},
        {"average": rg.EMA(0.9)},
        {"trainable": ["blocks.1.*", "last.*"]},
        {"selector": rg.HighLoss(0.5)},
    ],
)
def test_a_run_of_it_is_a_run_of_mezo(more, monkeypatch):
    """Validation, averages and checkpoints read what MeZO's would; all other steps put off what they write."""
    whole = rg.run(work_of(), regime_of(rg.MeZO(**KNOBS), **more), seed=5, validate="10 steps")
    writes = []
    plain = rg.ZO2.flush
    monkeypatch.setattr(
        rg.ZO2, "flush", lambda self, s, p: (writes.append(1) if s["late"] else None, plain(self, s, p))[1]
    )
    found = rg.run(work_of(), regime_of(rg.ZO2(blocks=BLOCKS, **KNOBS), **more), seed=5, validate="10 steps")
    assert same(whole.model, found.model)
    assert whole.metrics == found.metrics
    assert whole.records == found.records
    assert len(writes) == (30 if "average" in more else 3)


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize("val", [True, False])
def test_a_seam_carries_what_mezo_would(tmp_path, val):
    """Into itself and into another rule, and the end of a run, whether anything is validated there or not."""

    def regime(rule):
        phases = [
            rg.Phase("a", budget="7 steps"),
            rg.Phase("b", budget="8 steps"),
            rg.Phase("c", budget="5 steps", optimizer=rg.SGD(lr=0.1)),
        ]
        return rg.Regime(phases=phases, optimizer=rule, batch_size=16)

    ends = [run_of(rule, val=val) for rule in (rg.MeZO(**KNOBS), rg.ZO2(blocks=BLOCKS, **KNOBS))]
    [list(run) for run in ends]
    assert same(ends[0].model, ends[1].model)
    for out in (None, tmp_path):
        for made in (regime, regime_of):
            mezo, zo2 = (
                rg.run(work_of(val=val), made(rule), seed=5, out=out and out / f"{made.__name__} {type(rule).__name__}")
                for rule in (rg.MeZO(**KNOBS), rg.ZO2(blocks=BLOCKS, **KNOBS))
            )
            assert same(mezo.model, zo2.model)
            assert mezo.metrics == zo2.metrics


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize("every", [1, 3])
def test_it_resumes_to_the_bit_amid_what_it_puts_off(every):
    def make():
        return run_of(rg.ZO2(blocks=BLOCKS, **KNOBS), steps=12)

    assert resume_chain(make, 12, every) == []
    begun, again = make(), make()
    for _ in range(5):
        begun.step()
    assert begun.states["optimizer"]["late"]
    again.load(trees.clone(begun.tree()))
    whole = run_of(rg.MeZO(**KNOBS), steps=12)
    for _ in range(5):
        whole.step()
    assert same(whole.model, again.model)
    list(whole), list(again)
    assert same(whole.model, again.model)


@pytest.mark.exact("ZO2")
def test_probes_and_a_trial_see_mezos_weights():
    def regime(rule):
        return regime_of(rule, 24)

    auto = {"lr": rg.AutoLRS(0.01, 0.1, "12 steps", "2 steps", tries=2), "eps": 1e-2}
    for knobs, probes in ((KNOBS, [rg.WeightNorm(every="5 steps")]), (auto, [])):
        pair = [
            rg.run(work_of(), regime(rule), seed=5, probes=probes)
            for rule in (rg.MeZO(**knobs), rg.ZO2(blocks=BLOCKS, **knobs))
        ]
        assert pair[0].records == pair[1].records
        assert same(pair[0].model, pair[1].model)


class Looking(rg.Reshuffle):
    """Asks once, between two steps, for the losses of all that it draws from, and keeps them."""

    def init(self, view):
        return {"scores": None}

    def propose(self, state, at):
        return Trial({}, "0 steps", score=True) if at.step >= 5 and state["scores"] is None else None

    def absorb(self, state, end):
        return {"scores": end.scores["train"]}


@pytest.mark.exact("ZO2")
def test_a_look_between_two_steps_sees_mezos_weights():
    mezo, zo2 = (
        run_of(rule, steps=8, sampler=Looking()) for rule in (rg.MeZO(**KNOBS), rg.ZO2(blocks=BLOCKS, **KNOBS))
    )
    list(mezo), list(zo2)
    assert torch.equal(mezo.states["sampler"]["scores"], zo2.states["sampler"]["scores"])


@pytest.mark.exact("ZO2")
def test_a_skipped_step_leaves_what_mezos_leaves():
    """An example that is not a number, in one batch of four: the walk there and back is made up for, too."""
    x, y = data()
    x[7] = torch.nan
    mezo, zo2 = (run_of(rule, steps=12, train=(x, y)) for rule in (rg.MeZO(**KNOBS), rg.ZO2(blocks=BLOCKS, **KNOBS)))
    records = list(zip(mezo, zo2))
    assert [a.signals for a, _ in records] == [b.signals for _, b in records]
    assert sum("skipped" in a.signals for a, _ in records) == 3
    assert same(mezo.model, zo2.model)


@pytest.mark.exact("ZO2")
def test_the_log_alone_makes_its_weights_again():
    made = rg.run(work_of(), regime_of(rg.ZO2(blocks=BLOCKS, **KNOBS)), seed=5)
    found = weights_at(made)
    assert all(found[name].equal(p) for name, p in made.model.named_parameters())


class Shared(Net):
    """A block that runs twice, one that never does, and one inside another."""

    def forward(self, x):
        return super().forward(x) + self.last(self.blocks[0](self.first(x))[:, :, :2, :2].flatten(1))

    def __init__(self, dtype=torch.float32):
        super().__init__(dtype)
        self.unused = nn.Linear(4, 4, dtype=dtype)


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize(
    "blocks", [["blocks.*", "unused"], ["blocks"], ["last", "blocks.*", "first"], ["blocks.1.0", "blocks.?", "last"]]
)
def test_blocks_may_run_twice_or_never_and_the_outermost_counts(blocks):
    mezo = run_of(rg.MeZO(**KNOBS), Shared)
    if blocks == ["blocks"]:  # a list of modules is never called: its weights would be read as they are
        with pytest.raises(UserCodeError, match="reads weights of a block without calling it"):
            run_of(rg.ZO2(blocks=blocks, **KNOBS), Shared).step()
        return
    zo2 = run_of(rg.ZO2(blocks=blocks, **KNOBS), Shared)
    list(mezo), list(zo2)
    assert same(mezo.model, zo2.model)


@pytest.mark.exact("ZO2")
def test_the_outermost_modules_that_match_are_the_blocks():
    zo2 = run_of(rg.ZO2(blocks=["blocks.1.0", "blocks.?", "last*"], **KNOBS))
    zo2.step()
    names = ["last", "blocks.0", "blocks.1", "blocks.2"]
    assert sorted(zo2.states["optimizer"]["late"]) == sorted(names)
    far = rg.offload(Net(), ["blocks.1.0", "blocks.*", "last*"])
    assert [name for name, module in far.named_modules() if module._forward_pre_hooks] == names


def test_patterns_that_match_no_block_are_refused():
    with pytest.raises(
        DeclarationError, match=r"blocks\.1: got 'block\.\*', which matches no module .* did you mean 'blocks\.\*'"
    ):
        run_of(rg.ZO2(blocks=["first", "block.*"], lr=0.1))


@pytest.mark.exact("ZO2")
def test_a_module_is_announced_before_it_runs_and_only_in_the_evaluation_that_asks():
    """Also where the forward fails."""
    run, seen = run_of(rg.SGD(lr=0.1)), []
    evaluate = Evaluator(run, run.phase.declaration, run.frame.plans[0])
    run.model.blocks[1].register_forward_hook(lambda *_: seen.append("ran"))
    before = {"blocks.1": lambda: seen.append("runs"), "first": lambda: seen.append("first")}
    evaluate(grad=False, before=before)
    assert seen == ["first", "runs", "ran"]
    evaluate(grad=False)
    assert seen[3:] == ["ran"]
    with pytest.raises(UserCodeError):
        evaluate(grad=False, before={"last": lambda: run.model.nothing})
    evaluate(grad=False)


# -- the slope ---------------------------------------------------------------------------------------------


def least_squares(rule, steps):
    """A quadratic in the weights of one layer, which is a block."""
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)).double()
    work = rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(6, 2)).double(), train=(x, x[:, :2] + 1.0), loss=nn.MSELoss()
    )
    return rg.Run(work, rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps"), 5, count_flops=False), x


def true_and_noise(run, x, number):
    weights = list(run.model.parameters())
    loss = nn.functional.mse_loss(run.model(x), x[:, :2] + 1.0)
    generator = run.rule_generator("mezo", number)
    return torch.autograd.grad(loss, weights), [
        torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights
    ]


@pytest.mark.exact("ZO2", "MeZO")
@pytest.mark.parametrize("eps", [1e-3, 1.0, 100.0])
def test_on_a_quadratic_the_slope_is_the_directional_derivative(eps):
    run, x = least_squares(rg.ZO2(blocks=["0"], lr=0.01, eps=eps), 20)
    for number in range(20):
        true, noise = true_and_noise(run, x, number)
        expected = sum((g * z).sum().item() for g, z in zip(true, noise))
        assert run.step().signals["projected_gradient"] == pytest.approx(expected, rel=1e-9, abs=1e-10)


@pytest.mark.exact("ZO2", "MeZO")
def test_the_mean_over_noise_is_the_gradient():
    """rho z over 3,000 draws, within five standard errors of the gradient in every coordinate."""
    run, x = least_squares(rg.ZO2(blocks=["0"], lr=0.0, eps=0.5), 3000)
    found, true = [], None
    for number in range(3000):
        gradients, noise = true_and_noise(run, x, number)
        true = torch.cat([g.flatten() for g in gradients])
        slope = run.step().signals["projected_gradient"]
        found.append(slope * torch.cat([z.flatten() for z in noise]))
    rows = torch.stack(found)
    error = rows.std(0) / len(rows) ** 0.5
    assert (((rows.mean(0) - true) / error).abs() < 5).all()
    assert error.max() < 0.1 * true.norm()


# -- blocks that lie elsewhere -----------------------------------------------------------------------------


@pytest.mark.exact("ZO2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [rg.MeZO(**KNOBS), rg.ZO2(blocks=BLOCKS, **KNOBS)])
def test_where_the_blocks_lie_changes_no_bit(tmp_path, dtype, rule):
    """In files, of the form and layout that they had; read, validated, saved and loaded from there."""

    def far(dtype):
        return rg.offload(Net(dtype), BLOCKS, tmp_path)

    near = rg.run(work_of(Net, dtype), regime_of(rg.MeZO(**KNOBS), average=rg.EMA(0.9)), seed=5, validate="10 steps")
    found = rg.run(work_of(far, dtype), regime_of(rule, average=rg.EMA(0.9)), seed=5, validate="10 steps")
    assert same(near.model, found.model)
    assert near.metrics == found.metrics
    begun, again = (run_of(rule, far, dtype) for _ in range(2))
    for _ in range(4):
        begun.step()
    again.load(trees.clone(begun.tree()))
    weights = list(again.model.blocks.parameters())
    assert all(p in _MAPPED for p in weights)
    assert [p.stride() for p in weights] == [p.stride() for p in Net(dtype).blocks.parameters()]
    list(again)
    whole = run_of(rg.MeZO(**KNOBS), Net, dtype)
    list(whole)
    assert same(whole.model, again.model)


def test_one_block_at_a_time_is_fetched_and_what_is_written_meanwhile_stays(tmp_path):
    plain, far = Net(), rg.offload(Net(), BLOCKS, tmp_path)
    far.load_state_dict(plain.state_dict())
    places = {p: p.data_ptr() for p in far.blocks.parameters()}
    fetched = []

    def look(module, args):
        away = [block for block in far.blocks if any(p.data_ptr() != places[p] for p in block.parameters())]
        fetched.append(away == [module])
        assert all(p.data_ptr() != places[p] for p in module.parameters())
        module[0].bias.add_(1.0)

    for block in far.blocks:
        block.register_forward_pre_hook(look)
    with torch.no_grad():
        seen = far(data()[0])
        for block in plain.blocks:
            block[0].bias.add_(1.0)
        assert torch.equal(seen, plain(data()[0]))
    assert fetched == [True] * 3
    assert {p: p.data_ptr() for p in far.blocks.parameters()} == places
    assert same(plain, far)
    assert list(far.state_dict()) == list(plain.state_dict())


def test_a_forward_that_fails_leaves_the_weights_where_they_lay(tmp_path):
    far = rg.offload(Net(), BLOCKS, tmp_path)
    places = [p.data_ptr() for p in far.blocks.parameters()]
    with torch.no_grad(), pytest.raises(RuntimeError):
        far.blocks[1](torch.zeros(4, 5))
    assert [p.data_ptr() for p in far.blocks.parameters()] == places


def test_types_and_buffers_follow_and_copies_are_their_own(tmp_path):
    import copy

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))).eval()

    plain, far, x = net(), rg.offload(net(), ["1"], tmp_path), data()[0].double()
    copied = copy.deepcopy(far)
    plain.double(), far.double()
    assert copied[1][0].weight.dtype == torch.float32
    assert far[1][1].running_mean.dtype == torch.float64
    assert all(p in _MAPPED for p in far[1].parameters())
    with torch.no_grad():
        assert torch.equal(far(x), plain(x))
        copied[1][0].weight.zero_()
        assert torch.equal(copied.double()(x), copied(x))
        assert torch.equal(far(x), plain(x))


def test_in_host_memory_a_model_on_the_host_is_what_it_was():
    plain = Net()
    places = [p.data_ptr() for p in plain.parameters()]
    far, seen = rg.offload(plain, BLOCKS), []
    far.blocks[2].register_forward_pre_hook(lambda *_: seen.extend(p.data_ptr() for p in far.parameters()))
    with torch.no_grad():
        far(data()[0])
    assert [p.data_ptr() for p in far.parameters()] == places
    assert seen == places


def test_a_backward_is_refused_and_so_is_what_is_not_there(tmp_path):
    far = rg.offload(Net(), BLOCKS, tmp_path)
    with pytest.raises(UserCodeError, match="has no backward"):
        far(data()[0])
    far.requires_grad_(False)(data()[0])
    with pytest.raises(DeclarationError, match=r"blocks\.0: got 'block\.\*'.* did you mean 'blocks\.\*'"):
        rg.offload(Net(), ["block.*"])
    with pytest.raises(DeclarationError, match="folder"):
        rg.offload(Net(), BLOCKS, tmp_path / "none")
    with contextlib.suppress(RunFailed), pytest.raises(UserCodeError, match="has no backward"):
        list(run_of(rg.SGD(lr=0.1), lambda dtype: rg.offload(Net(dtype), BLOCKS, tmp_path)))
