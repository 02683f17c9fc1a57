"""Rollouts: what is sampled, from which weights, at which address, at what cost."""

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError, UserCodeError
from regimes.engine.plan import Plan
from regimes.engine.run import Run
from regimes.sources import Rollouts

VOCABULARY, END, PROMPT, LIMIT, SIZE = 7, 6, 3, 4, 24


class Causal(nn.Module):
    """Logits from the mean of all tokens so far, with dropout and a norm that keep statistics."""

    def __init__(self, width=5, dropout=0.0, norm=False):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        self.dropout, self.norm = nn.Dropout(dropout), nn.BatchNorm1d(width) if norm else None

    def forward(self, tokens):
        x = self.embed(tokens).cumsum(1) / torch.arange(1, tokens.shape[1] + 1, device=tokens.device)[:, None]
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(x))


def likeness(prompts, answers):
    return (answers[..., :PROMPT] == prompts[:, None]).float().mean(2)


def questions(answers=3, seed=0, cls=Rollouts):
    tokens = torch.randint(0, VOCABULARY, (SIZE, PROMPT + LIMIT), generator=torch.Generator().manual_seed(seed))
    return cls(tokens[:, :PROMPT], tokens[:, PROMPT:], likeness, end=END, answers=answers)


def work(model=Causal, source=None, **sources):
    return rg.Workload(model=model, train=sources or source or questions(), loss=rg.PolicyGradient.sft())


def run(workload=None, loss="PolicyGradient(advantage='reward')", steps=4, seed=1, **fields):
    regime = rg.Regime(
        **{"optimizer": "SGD(lr=0.5)", "batch_size": 6, "budget": f"{steps} steps", "loss": loss} | fields
    )
    return Run(workload or work(), regime, seed=seed)


def read(made, indices, step=0):
    return made.read(Plan(step, np.array(indices), None, None, {}, {}, {}), made.streams)


def states(made):
    return {name: p.detach().clone() for name, p in made.model.state_dict().items()}


# -- what is sampled -----------------------------------------------------------------------------------------


@pytest.mark.exact("Rollouts")
def test_answers_are_sampled_by_inversion_token_by_token():
    """Against a plain twin: one answer at a time, each token where the cumulative probability passes the number drawn."""
    made = run()
    batch = read(made, [5, 0, 17], step=3)
    model, source = made.model.eval(), questions()
    for place, index in enumerate([5, 0, 17]):
        drawn = made.streams.rng("ask", 3, 0, index).random((3, LIMIT))
        for answer in range(3):
            tokens, said, surprise = source.prompts[index].tolist(), [], []
            for t in range(LIMIT):
                with torch.no_grad():
                    p = model(torch.tensor([tokens]))[0, -1].log_softmax(0).double()
                chosen = int(
                    np.searchsorted(np.cumsum(p.exp().numpy()), drawn[answer, t] * p.exp().sum().item(), "right")
                )
                tokens.append(chosen), said.append(chosen), surprise.append(p[chosen].item())
                if chosen == END:
                    break
            rest = LIMIT - len(said)
            assert batch.answers[place, answer].tolist() == said + [-100] * rest
            assert batch.log_probs[place, answer].tolist() == pytest.approx(surprise + [0.0] * rest, abs=1e-6)
    assert (batch.answers == END).any()
    assert (batch.answers == -100).any()


@pytest.mark.exact("Rollouts")
def test_frequencies_of_one_token_are_its_probabilities():
    """The numbers drawn are replaced by an even grid: then frequencies are probabilities to one part of the grid."""
    source, n = questions(answers=2000), 2000

    class Grid:
        def random(self, shape):
            return np.repeat((np.arange(n)[:, None] + 0.5) / n, shape[1], 1)

    torch.manual_seed(0)
    model = Causal()
    with torch.no_grad():
        batch = source.ask(model, source.fetch(np.array([0]), {}), lambda i: Grid())
        wanted = model(source.prompts[:1])[0, -1].softmax(0)
    found = torch.bincount(batch.answers[0, :, 0], minlength=VOCABULARY) / n
    assert (found - wanted).abs().max() <= 1 / n


@pytest.mark.exact("Rollouts")
def test_log_probabilities_are_those_of_one_forward_over_the_whole_answer():
    made = run()
    batch = read(made, list(range(8)))
    inputs, targets = batch.answered()
    with torch.no_grad():
        whole = made.model(inputs)[:, -LIMIT:].log_softmax(-1)
    kept = targets != -100
    wanted = whole.gather(2, targets.clamp_min(0)[..., None])[..., 0]
    torch.testing.assert_close(batch.log_probs.flatten(0, 1)[kept], wanted[kept], rtol=0, atol=1e-6)
    assert torch.equal(batch.rewards, likeness(batch.prompts, batch.answers))


# -- addresses -----------------------------------------------------------------------------------------------


def test_a_question_gets_the_same_answers_whatever_is_beside_it():
    made = run()
    whole = read(made, [4, 9, 1, 9, 20], step=2)
    for place, index in enumerate([4, 9, 1, 9, 20]):
        alone = read(made, [index], step=2)
        assert torch.equal(alone.answers[0], whole.answers[place])
    assert torch.equal(whole.answers[1], whole.answers[3])
    assert not torch.equal(whole.answers, read(made, [4, 9, 1, 9, 20], step=3).answers)
    other = run(seed=2)
    other.model.load_state_dict(made.model.state_dict())
    assert not torch.equal(whole.answers, read(other, [4, 9, 1, 9, 20], step=2).answers)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_change_nothing_but_rounding(micro):
    ends = []
    for size in (None, micro):
        made = run(micro_batch=size)
        losses = [record.loss for record in made]
        ends.append((losses, states(made), made.work))
    assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-6)
    for name, value in ends[0][1].items():
        torch.testing.assert_close(value, ends[1][1][name], rtol=0, atol=1e-6)
    assert ends[0][2] == ends[1][2]


def test_lag_changes_neither_the_weights_nor_the_address():
    ends = []
    for lag in (0, 2):
        made = run(lag=lag)
        list(made)
        ends.append(states(made))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_sources_of_one_form_are_joined_in_the_order_of_the_plan():
    made = run(work(first=questions(seed=0), second=questions(seed=1)))
    plan = Plan(0, np.array([3, 3, 5]), np.array([1, 0, 1]), None, {}, {}, {})
    batch = made.read(plan, made.streams)
    assert torch.equal(batch.prompts, torch.stack([questions(seed=s).prompts[i] for s, i in ((1, 3), (0, 3), (1, 5))]))
    alone = made.read(Plan(0, np.array([5]), np.array([1]), None, {}, {}, {}), made.streams)
    assert torch.equal(alone.answers[0], batch.answers[2])


# -- which weights, and what is left as it was -----------------------------------------------------------------


class Watched(Rollouts):
    """Notes with which weights it asks."""

    def ask(self, model, batch, rng):
        self.seen = [p.detach().clone() for p in model.parameters()]
        self.modes = {module.training for module in model.modules()} | {torch.is_grad_enabled()}
        return super().ask(model, batch, rng)


@pytest.mark.parametrize("rule", ["SGD(lr=0.5)", "SAM(SGD(lr=0.5))", "MeZO(lr=1e-3)", "ScheduleFreeAdamW(lr=0.01)"])
def test_the_weights_at_the_beginning_of_the_step_are_asked(rule):
    source = questions(cls=Watched)
    made = run(work(source=source), optimizer=rule)
    for _ in range(3):
        before = [p.detach().clone() for p in made.model.parameters()]
        made.step()
        assert all(torch.equal(a, b) for a, b in zip(before, source.seen))
        assert source.modes == {False}


def test_asking_leaves_modes_statistics_and_generators_as_they_were():
    made = run(work(model=lambda: Causal(dropout=0.5, norm=True)))
    made.model.head.eval()
    before = states(made), [m.training for m in made.model.modules()], torch.get_rng_state(), np.random.get_state()[1]
    first = read(made, [0, 1, 2])
    assert torch.equal(first.answers, read(made, [0, 1, 2]).answers)
    assert all(torch.equal(v, made.model.state_dict()[k]) for k, v in before[0].items())
    assert [m.training for m in made.model.modules()] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert (np.random.get_state()[1] == before[3]).all()


def test_probes_that_look_at_answers_change_nothing():
    plain, looked = run(), run()
    ends = [
        list(plain),
        list(rg.stream(looked.workload, looked.regime, 1, probes=[rg.GradientNorm(), rg.ExampleLoss()])),
    ]
    assert [record.loss for record in ends[0]] == [record.loss for record in ends[1]]
    assert any("gradient_norm" in name for name in ends[1][-1].signals)


def test_the_identity_of_a_run_knows_the_reward():
    def other(prompts, answers):
        return 1.0 - likeness(prompts, answers)

    from regimes.engine.identity import program

    same, again, changed = (questions() for _ in range(3))
    changed.reward = other
    found = [program(work(source=source)) for source in (same, again, changed)]
    assert found[0] == found[1]
    assert found[0]["sources"] != found[2]["sources"]
    assert found[0]["data"] != program(work(source=questions(answers=4)))["data"]


# -- work ----------------------------------------------------------------------------------------------------


def test_answers_are_charged_beside_the_step_once():
    """By hand: the head is the only product; the first token is asked for once per question, the others per answer."""
    made = run(steps=3, optimizer="SAM(SGD(lr=0.1))")
    list(made)
    rows = 6 * PROMPT + sum(6 * 3 * (PROMPT + t) for t in range(1, LIMIT))
    assert made.work.side_flops == 3 * 2 * rows * 5 * VOCABULARY


def test_a_loss_that_reads_no_answers_pays_for_none():
    source = questions(cls=Watched)
    made = run(work(source=source), loss=None)
    list(made)
    assert made.work.side_flops == 0.0
    assert not hasattr(source, "seen")
    assert read(made, [0]).answers.shape == (1, 0, LIMIT)


def test_a_scoring_pass_of_answers_is_charged_with_them():
    from regimes.engine.scoring import score

    made = run()
    found = score(made)["train"]
    assert found.shape == (SIZE,)
    asked = SIZE * PROMPT + sum(SIZE * 3 * (PROMPT + t) for t in range(1, LIMIT))
    assert made.work.side_flops == 2 * 5 * VOCABULARY * (asked + SIZE * 3 * (PROMPT + LIMIT - 1))


# -- refusals ------------------------------------------------------------------------------------------------


def test_refusals():
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    for wrong, key in (
        ({"prompts": tokens.float()}, "prompts"),
        ({"demonstrations": tokens[:1]}, "demonstrations"),
        ({"answers": -1}, "answers"),
    ):
        with pytest.raises(DeclarationError, match=key):
            Rollouts(**{"prompts": tokens, "demonstrations": tokens, "reward": likeness, "end": 6} | wrong)
    with pytest.raises(DeclarationError, match="val: the data 'val' ask the model, which only training data may"):
        rg.Workload(model=Causal, train=questions(), val=questions(), loss=rg.PolicyGradient.sft())
    source = questions()
    source.reward = lambda prompts, answers: torch.zeros(1, 3, 3)
    with pytest.raises(UserCodeError, match=r"the reward gave \(1, 3, 3\); allowed: a tensor of shape \(\d, 3\)"):
        run(work(source=source))
    flat = work(model=lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(1), nn.Linear(12, 7)))
    with pytest.raises(UserCodeError, match=r"the model gave \(\d, 7\) for tokens of shape \(\d, 3\)"):
        run(flat)


def test_a_model_that_answers_nothing_finite_skips_the_step():
    made = run()
    before = states(made)
    with torch.no_grad():
        made.model.head.bias.fill_(torch.nan)
    record = made.step()
    assert record.signals["skipped"] == "answers of the model"
    assert torch.equal(made.model.embed.weight, before["embed.weight"])
