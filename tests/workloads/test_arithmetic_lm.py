"""Sums that a small transformer answers itself: what is asked, what is right, and what its metric means."""

import pytest
import torch

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.engine.run import Run
from regimes.workloads.arithmetic_lm import END, EQUALS, PLUS, SumLM, greedy_reward, questions, right, teacher_forced

SMALL = {"modulus": 12, "held_out": 20, "answers": 4, "width": 16, "heads": 2}


def number(digits):
    return int("".join(map(str, reversed(digits))))


@pytest.mark.parametrize("modulus", [7, 12, 100])
def test_every_question_has_its_sum_and_the_reward_knows_it(modulus):
    codes = torch.arange(modulus**2)
    prompts, answers = questions(codes, modulus)
    n = len(str(modulus - 1))
    for code in range(0, modulus**2, 1 + modulus // 11):
        prompt, answer = prompts[code].tolist(), answers[code].tolist()
        assert (prompt[n], prompt[-1], answer[-1]) == (PLUS, EQUALS, END)
        assert (number(prompt[:n]), number(prompt[n + 1 : -1])) == divmod(code, modulus)
        assert number(answer[:-1]) == sum(divmod(code, modulus)) % modulus
    assert right(prompts, answers[:, None], modulus).eq(1).all()
    wrong = answers.clone()
    wrong[:, 0] = (wrong[:, 0] + 1) % 10
    unended = torch.cat((answers[:, :-1], answers[:, :1]), 1)
    assert right(prompts, torch.stack((wrong, answers, unended), 1), modulus).tolist() == [[0.0, 1.0, 0.0]] * modulus**2


def test_no_question_is_in_two_places_and_known_is_its_share():
    work = rg.workloads.load("arithmetic_lm", **SMALL)
    assert work.name == "arithmetic_lm"
    places = [source.prompts for source in work.sources["train"].values()]
    places += [work.sources[split][split].parts["0"][:, :6] for split in ("val", "test")]
    assert [len(part) for part in places] == [31, 73, 20, 20]
    assert len(torch.cat(places).unique(dim=0)) == 12**2
    assert work.fingerprint() != rg.workloads.load("arithmetic_lm", **SMALL, seed=1).fingerprint()


def test_no_position_sees_a_later_token():
    torch.manual_seed(0)
    model, tokens = SumLM(8).double(), torch.randint(0, 13, (4, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 13
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :5], model(changed)[:, :5], rtol=0, atol=1e-12)
        assert (model(tokens)[:, 5] - model(changed)[:, 5]).abs().min() > 0
        torch.testing.assert_close(model(tokens[:, :3]), model(tokens)[:, :3], rtol=0, atol=1e-12)


def greedy(model, prompts, limit):
    """One token after the other, the likeliest each."""
    tokens = prompts
    for _ in range(limit):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    return tokens[:, prompts.shape[1] :]


@pytest.mark.parametrize("steps", [0, pytest.param(200, marks=pytest.mark.slow)])
def test_the_metric_is_the_reward_of_greedy_decoding(steps):
    made = Run(
        rg.workloads.load("arithmetic_lm", **SMALL),
        rg.Regime(optimizer="AdamW(lr=0.02)", batch_size=64, budget=f"{max(steps, 1)} steps"),
    )
    for _ in range(steps):
        made.step()
    codes = torch.arange(144)
    (prompts, _answers), (x, y) = questions(codes, 12), teacher_forced(codes, 12).parts.values()
    with torch.no_grad():
        said = greedy(made.model.eval(), prompts, 3)
        found = greedy_reward(made.model(x), y)
    assert torch.equal(found, right(prompts, said[:, None], 12)[:, 0].double())
    assert steps < 200 or 0.05 < found.mean() < 1


def test_resuming_over_the_seam_from_demonstrations_to_answers_is_bitwise(tmp_path):
    work = rg.workloads.load("arithmetic_lm", **SMALL)
    base = {"optimizer": "AdamW(lr=0.01)", "batch_size": 8}
    phases = [
        rg.Phase("shown", mixture="Mixture(known=1)", budget="3 steps"),
        rg.Phase("hybrid", mixture="Mixture(known=1, new=1)", loss="HybridPostTraining(0.1)", budget="4 steps"),
    ]
    regime = rg.Regime(phases=phases, **base)
    whole = Run(work, regime, seed=4)
    records = list(whole)
    for stop in (2, 5):
        first = Run(work, regime, seed=4)
        for _ in range(stop):
            first.step()
        again = Run(work, regime, seed=4)
        again.load(first.tree())
        assert [record.loss for record in again] == [record.loss for record in records[stop:]]
        assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters()))
        assert again.work == whole.work
    assert whole.work.side_flops > 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"modulus": 1}, "modulus: got 1; allowed: a whole number >= 2"),
        ({"known": 1.0}, "known: got 1.0; allowed: a number > 0 and < 1"),
        ({"modulus": 10, "held_out": 50}, "held_out: got 50 of 100 questions"),
    ],
)
def test_refusals(fields, sentence):
    with pytest.raises(DeclarationError, match=sentence):
        rg.workloads.load("arithmetic_lm", **fields)
