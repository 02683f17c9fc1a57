"""One policy gradient of separate parts, and hybrid post-training: reductions, plain twins, the clip's region."""

import dataclasses
import math
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional

import regimes as rg
from regimes.core.errors import DeclarationError, UserCodeError
from regimes.engine.run import Run
from regimes.losses.policy_gradient import advantages
from regimes.sources import Rollout, Rollouts

V, P, L, N, B = 7, 3, 4, 3, 5
PG = rg.PolicyGradient


class Table(nn.Module):
    """Logits from the last two tokens, in double precision."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.now, self.last = (nn.Parameter(torch.randn(V, V, generator=draw).double()) for _ in range(2))

    def forward(self, tokens):
        return self.now[tokens] + self.last[functional.pad(tokens, (1, 0))[:, :-1]]


def rollout(off=0.0, seed=0):
    """Answers of all lengths, with log-probabilities that are off the model's by up to `off`."""
    draw = torch.Generator().manual_seed(seed)
    prompts = torch.randint(0, V, (B, P), generator=draw)
    shown, said = (torch.randint(0, V, size, generator=draw) for size in ((B, L), (B, N, L)))
    lengths = torch.randint(1, L + 1, (B, N, 1), generator=draw)
    said = said.where(torch.arange(L) < lengths, -100)
    shown[1, 2:] = -100
    rewards = torch.randint(0, 2, (B, N), generator=draw).double()
    rewards[0], rewards[1] = torch.tensor([1.0, 0.0, 0.0]), 0.0
    blank = Rollout(prompts, shown, said, torch.zeros(B, N, L).double(), rewards)
    noise = off * (2 * torch.rand(B, N, L, generator=draw).double() - 1)
    return Rollout(prompts, shown, said, (now(Table(), blank) + noise).where(said != -100, 0.0), rewards)


def now(model, batch):
    """Log-probabilities of every token of the answers, one at a time."""
    out = torch.zeros(B, N, L).double()
    for q, i, t in torch.nonzero(batch.answers != -100).tolist():
        out[q, i, t] = token(model, batch.prompts[q], batch.answers[q, i], t).detach()
    return out


def token(model, prompt, answer, t):
    text = torch.cat((prompt, answer[:t]))[None]
    return model(text)[0, -1].log_softmax(0)[answer[t]]


def gradient(loss, batch, model=None):
    """As a step has it: the weighted mean of the units."""
    model = model or Table()
    units = loss.units(loss.init(), model, batch)
    total = (units.values * units.weights).sum() / units.weights.sum()
    return total.detach(), torch.autograd.grad(total, list(model.parameters()))


def close(found, wanted, tol=1e-12):
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tol)


def plain(batch, per_token, lengths, gain):
    """The mean over questions of the mean over answers, one token at a time; its gradient."""
    model, total = Table(), torch.zeros(()).double()
    for q in range(B):
        for i in range(N):
            answer = batch.answers[q, i]
            count = int((answer != -100).sum())
            part = sum(
                per_token(
                    token(model, batch.prompts[q], answer, t),
                    batch.log_probs[q, i, t],
                    gain(batch.rewards[q].tolist(), i),
                )
                for t in range(count)
            )
            total = total + part / {"mean": count, "sum": 1, "constant": L}[lengths] / N / B
    return total.detach(), torch.autograd.grad(total, list(model.parameters()))


# -- reductions ----------------------------------------------------------------------------------------------


@pytest.mark.exact("PolicyGradient")
def test_advantage_1_over_the_policy_itself_is_the_cross_entropy_gradient():
    batch = rollout()
    inputs, targets = batch.demonstrated()
    model = Table()
    logits = model(inputs)[:, -L:].reshape(B * L, V)
    values = functional.cross_entropy(logits, targets.reshape(-1), reduction="none").view(B, L)
    kept = (targets != -100).double()
    wanted = (values * kept).sum(1) / kept.sum(1)
    found = gradient(PG.sft(), batch)
    assert torch.equal(PG.sft().units({}, Table(), batch).values.view(B, L)[kept > 0], values[kept > 0])
    close(found[1], torch.autograd.grad(wanted.mean(), list(model.parameters())))
    assert found[0].item() == pytest.approx(wanted.mean().item(), abs=1e-12)


def test_demonstrations_of_one_length_are_next_tokens():
    x, y = rollout().demonstrated()
    y = torch.cat((torch.full((B, P - 1), -100), y.clamp_min(0)), 1)
    model, mine = Table(), gradient(PG.sft(), (x, y))
    units = rg.NextToken().units({}, model, (x, y))
    total = (units.values * units.weights).sum() / units.weights.sum()
    close(mine[1], torch.autograd.grad(total, list(model.parameters())))
    assert torch.equal(PG.sft().units({}, model, (x, y)).values, units.values)


@pytest.mark.exact("PolicyGradient")
def test_the_policy_below_and_group_advantages_are_reinforce():
    batch = rollout(off=0.5)
    found = gradient(PG(denominator="policy", clip=None, lengths="sum"), batch)
    wanted = plain(batch, lambda new, old, a: -a * new, "sum", lambda r, i: r[i] - sum(r) / N)
    close(found[1], wanted[1]), close(found[:1], wanted[:1])
    assert max(g.abs().max() for g in wanted[1]) > 0.01


@pytest.mark.exact("PolicyGradient")
@pytest.mark.parametrize("lengths", ["mean", "sum", "constant"])
@pytest.mark.parametrize("clip", [0.2, None])
def test_on_policy_a_clipped_ratio_is_reinforce(lengths, clip):
    batch = rollout()
    mine = gradient(PG(lengths=lengths, clip=clip), batch)
    close(mine[1], gradient(PG(denominator="policy", clip=None, lengths=lengths), batch)[1])


def test_a_denominator_of_1_weighs_by_the_probability_itself():
    batch = rollout(off=0.5)
    found = gradient(PG(denominator="one", advantage="reward", clip=None, lengths="mean"), batch)
    wanted = plain(batch, lambda new, old, a: -a * new.exp(), "mean", lambda r, i: r[i])
    close(found[1], wanted[1])


# -- advantages ----------------------------------------------------------------------------------------------

GAINS = {
    "one": lambda r, i: 1.0,
    "reward": lambda r, i: r[i],
    "group": lambda r, i: r[i] - statistics.mean(r),
    "group_std": lambda r, i: (r[i] - statistics.mean(r)) / (statistics.stdev(r) + 1e-6),
    "leave_one_out": lambda r, i: r[i] - statistics.mean(r[:i] + r[i + 1 :]),
}


@pytest.mark.exact("PolicyGradient")
@pytest.mark.parametrize("how", [name for name in GAINS if name != "one"])
def test_advantages_are_the_plain_formulas(how):
    rewards = torch.tensor(
        [[1.0, 0.0, 0.0, 1.0, 0.5], [0.0] * 5, [1.0] * 5, [0.3, -2.0, 4.0, 0.1, 0.2]], dtype=torch.float64
    )
    wanted = [[GAINS[how](row, i) for i in range(5)] for row in rewards.tolist()]
    torch.testing.assert_close(advantages(rewards, how), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.exact("PolicyGradient")
@pytest.mark.parametrize("how", ["group", "group_std", "leave_one_out"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_all_alike_are_no_signal(how, dtype):
    """In float32 the mean of seven 0.7 is not 0.7; what is left, over a deviation of nothing, was an advantage of 0.06."""
    for value in (0.7, 0.1, 1e-3, -3.3):
        assert not advantages(torch.full((2, 7), value, dtype=dtype), how).any()


@pytest.mark.exact("PolicyGradient")
def test_a_constant_length_is_that_of_the_longest_answer_allowed_not_of_the_longest_given():
    batch = rollout(off=0.5)
    short = batch.answers.where(torch.arange(L) < L - 1, -100)
    batch = dataclasses.replace(batch, answers=short, log_probs=batch.log_probs.where(short != -100, 0.0))
    found = gradient(PG(denominator="policy", clip=None, lengths="constant"), batch)
    wanted = plain(batch, lambda new, old, a: -a * new, "constant", GAINS["group"])
    close(found[1], wanted[1]), close(found[:1], wanted[:1])


PRESETS = [
    (PG.ppo(), "group", "mean", 0.2),
    (PG.grpo(), "group_std", "mean", 0.2),
    (PG.dr_grpo(), "group", "constant", 0.2),
    (PG(), "group", "constant", 0.2),
    (PG(clip=0.05, lengths="sum", advantage="one"), "one", "sum", 0.05),
    (PG(clip=None, lengths="mean"), "group", "mean", None),
]


@pytest.mark.exact("PolicyGradient")
@pytest.mark.parametrize(("loss", "how", "lengths", "clip"), PRESETS, ids=lambda value: str(value))
def test_presets_off_the_policy_are_their_plain_twins(loss, how, lengths, clip):
    def clipped(new, old, a):
        r = (new - old).exp()
        if clip is not None and ((a > 0 and r > 1 + clip) or (a < 0 and r < 1 - clip)):
            r = torch.tensor(1 + clip if a > 0 else 1 - clip, dtype=torch.float64)
        return -a * r

    batch = rollout(off=0.5)
    found, wanted = gradient(loss, batch), plain(batch, clipped, lengths, GAINS[how])
    close(found[1], wanted[1]), close(found[:1], wanted[:1])
    if clip is not None:
        unclipped = plain(batch, lambda new, old, a: -a * (new - old).exp(), lengths, GAINS[how])
        assert max((a - b).abs().max() for a, b in zip(unclipped[1], wanted[1])) > 1e-3


@pytest.mark.exact("PolicyGradient")
def test_reinforce_and_rloo_are_their_plain_twins():
    batch = rollout(off=0.5)
    for loss, how in ((PG.reinforce(), "reward"), (PG.rloo(), "leave_one_out")):
        close(gradient(loss, batch)[1], plain(batch, lambda new, old, a: -a * new, "sum", GAINS[how])[1])


@pytest.mark.exact("PolicyGradient")
def test_the_clip_cuts_off_exactly_its_region():
    """One token, every side of every bound: the gradient is 0 where the advantage points out of the region."""
    batch = rollout()
    place = torch.nonzero(batch.answers[2, 0] != -100)[0]
    for gain in (1.0, -1.0):
        for ratio, stable in ((0.79, gain > 0), (0.81, True), (1.19, True), (1.21, gain < 0)):
            old = batch.log_probs.clone()
            old[2, 0, place] -= math.log(ratio)
            rewards = torch.zeros(B, N).double()
            rewards[2, 0] = gain
            moved = Rollout(batch.prompts, batch.demonstrations, batch.answers, old, rewards)
            model, loss = Table(), PG(advantage="reward", lengths="mean")
            units = loss.units({}, model, moved)
            one = units.values.view(B, N, L)[2, 0, place].sum()
            found = torch.autograd.grad(one, list(model.parameters()))
            assert bool(max(g.abs().max() for g in found) > 0) is stable
            assert one.item() == pytest.approx(-gain * (ratio if stable else (1.2 if gain > 0 else 0.8)), abs=1e-12)


def test_an_entropy_is_the_mean_entropy_of_the_distributions_that_tokens_are_from():
    batch = rollout()
    model = Table()
    inputs, targets = batch.answered()
    entropy = torch.distributions.Categorical(logits=model(inputs)[:, -L:]).entropy()
    kept = (targets != -100).double()
    wanted = ((entropy * kept).sum(1) / kept.sum(1)).mean()
    with_it, without = (gradient(PG(lengths="mean", entropy=beta), batch)[0] for beta in (0.3, 0.0))
    assert (without - with_it).item() == pytest.approx(0.3 * wanted.item(), abs=1e-12)


# -- hybrid --------------------------------------------------------------------------------------------------


def solved(batch, gate):
    return [q for q in range(B) if batch.rewards[q].mean() > gate]


@pytest.mark.exact("HybridPostTraining")
@pytest.mark.parametrize("gate", [0.0, 0.4, 0.7])
def test_each_question_has_the_loss_that_its_success_chooses(gate):
    batch, loss = rollout(off=0.3), rg.HybridPostTraining(gate, PG.grpo())
    units = loss.units(loss.init(), Table(), batch)
    chosen = solved(batch, gate)
    assert 0 < len(chosen) < B
    total = torch.zeros(B).double().index_add_(0, units.examples, units.values.detach() * units.weights)
    weight = torch.zeros(B).double().index_add_(0, units.examples, units.weights)
    torch.testing.assert_close(weight, torch.ones(B).double(), rtol=0, atol=1e-12)
    for q in range(B):
        part = PG.grpo() if q in chosen else PG.sft()
        assert total[q].item() == pytest.approx(gradient(part, batch.part(torch.tensor([q])))[0].item(), abs=1e-12)


@pytest.mark.exact("HybridPostTraining")
def test_the_gradient_is_the_mean_of_the_parts_gradients():
    batch = rollout(off=0.3)
    chosen = torch.tensor(solved(batch, 0.4))
    others = torch.tensor([q for q in range(B) if q not in chosen])
    rl, sft = gradient(PG.dr_grpo(), batch.part(chosen))[1], gradient(PG.sft(), batch.part(others))[1]
    wanted = [(len(chosen) * a + len(others) * b) / B for a, b in zip(rl, sft)]
    close(gradient(rg.HybridPostTraining(0.4), batch)[1], wanted)


def test_a_question_without_demonstration_weighs_nothing_where_it_is_not_solved():
    batch = rollout()
    batch.demonstrations[1] = -100
    units = rg.HybridPostTraining().units(rg.HybridPostTraining().init(), Table(), batch)
    assert batch.rewards[1].sum() == 0
    assert (units.weights[units.examples == 1] == 0).all()
    assert units.weights.sum().item() == pytest.approx(B - 1, abs=1e-12)
    rest = torch.tensor([0, 2, 3, 4])
    close(gradient(rg.HybridPostTraining(), batch)[1], gradient(rg.HybridPostTraining(), batch.part(rest))[1])


# -- in runs -------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(V, 6), nn.Linear(6, V)

    def forward(self, tokens):
        return self.head(self.embed(tokens).cumsum(1).tanh())


def likeness(prompts, answers):
    return (answers[..., :P] == prompts[:, None]).float().mean(2)


def ends(loss, **fields):
    tokens = torch.randint(0, V, (24, P + L), generator=torch.Generator().manual_seed(3))
    source = Rollouts(tokens[:, :P], tokens[:, P:], likeness, end=6, answers=4)
    work = rg.Workload(model=Net, train=source, loss=PG.sft())
    base = {"optimizer": "AdamW(lr=0.05)", "batch_size": 6, "budget": "6 steps", "loss": loss}
    made = Run(work, rg.Regime(**base | fields), seed=1)
    losses = [record.loss for record in made]
    return losses, [p.detach().clone() for p in made.model.parameters()]


@pytest.mark.exact("HybridPostTraining")
@pytest.mark.parametrize(
    ("hybrid", "alone"),
    [
        (rg.HybridPostTraining(1.0), PG.sft()),
        (rg.HybridPostTraining(-0.01), PG.dr_grpo()),
        (rg.HybridPostTraining(-0.01, PG.grpo()), PG.grpo()),
        (rg.HybridPostTraining(gate="Linear(-1, -0.5)"), PG.dr_grpo()),
    ],
)
def test_beyond_the_rewards_the_gate_leaves_one_part_bit_for_bit(hybrid, alone):
    (losses, weights), (others, wanted) = ends(hybrid), ends(alone)
    assert losses == others
    assert all(torch.equal(a, b) for a, b in zip(weights, wanted))
    between = ends(rg.HybridPostTraining(0.15))[1]
    assert not any(torch.equal(a, b) for a, b in zip(between, wanted))


@pytest.mark.parametrize("loss", [rg.HybridPostTraining(0.15), PG.grpo(), PG.reinforce()], ids=str)
def test_micro_batches_change_nothing_but_rounding(loss):
    (losses, weights), (others, same) = (
        ends(loss, optimizer="SGD(lr=0.1)"),
        ends(loss, optimizer="SGD(lr=0.1)", micro_batch=2),
    )
    assert losses == pytest.approx(others, abs=1e-6)
    close(weights, same, 1e-6)


def test_the_work_of_a_hybrid_step_is_that_of_what_its_questions_read():
    """The head is the only product: three times 2 x rows x features x tokens, of as many rows as are read."""
    tokens = torch.randint(0, V, (24, P + L), generator=torch.Generator().manual_seed(3))
    source = Rollouts(tokens[:, :P], tokens[:, P:], likeness, end=6, answers=4)
    work = rg.Workload(model=Net, train=source, loss=PG.sft())
    made = Run(
        work, rg.Regime(optimizer="SGD(lr=0.1)", batch_size=6, budget="9 steps", loss="HybridPostTraining(0.15)")
    )
    splits, read = [], 0
    for _ in range(9):
        batch = made.read(made.frame.plans[0], made.streams)
        splits.append(int((batch.rewards.mean(1) > 0.15).sum()))
        read += splits[-1] * 4 + (6 - splits[-1])
        made.step()
    assert len(set(splits)) > 1
    assert made.work.flops == 3 * 2 * read * (P + L - 1) * 6 * V


def test_sam_evaluates_the_same_answers_at_other_weights():
    """The ratio is 1 in its first evaluation and another in its second, where the clip then matters."""
    sharp, wide = (
        ends(PG(advantage="reward", clip=clip), optimizer="SAM(SGD(lr=0.5), rho=0.5)") for clip in (0.01, 10.0)
    )
    assert sharp[0][0] == wide[0][0]
    assert not any(torch.equal(a, b) for a, b in zip(sharp[1], wide[1]))


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"reads": "demonstrations", "advantage": "one"}, "denominator: got 'rollouts', but nobody knows"),
        (
            {"reads": "demonstrations", "denominator": "policy", "clip": None},
            "advantage: got 'group', but demonstrations",
        ),
        ({"denominator": "policy"}, "clip: got 0.2, but with denominator='policy' there is no ratio"),
        ({"clip": 0.0}, "clip: got 0.0; allowed: a finite number > 0"),
        ({"entropy": -1}, "entropy: got -1; allowed: a finite number >= 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields, sentence):
    with pytest.raises(DeclarationError, match=sentence):
        PG(**fields)


def test_data_that_do_not_fit_are_refused():
    x, y = rollout().demonstrated()
    with pytest.raises(DeclarationError, match="reads answers, and the batch has none"):
        PG()(Table(), (x, y))
    with pytest.raises(DeclarationError, match="asks how many answers are right"):
        rg.HybridPostTraining()(Table(), (x, y))
    with pytest.raises(DeclarationError, match="reads demonstrations, and the batch has none"):
        PG.sft()(Table(), (x, y[:, 0]))
    with pytest.raises(UserCodeError, match="compares answers to a question, and there is 1"):
        advantages(torch.ones(2, 1), "group")
    with pytest.raises(DeclarationError, match="rl: got .* allowed: one that reads answers"):
        rg.HybridPostTraining(rl=PG.sft())
