"""Whole words, the share that is asked for, targets where something is masked; the same at the same address."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.augment.mask_words import IGNORE, chosen_words
from regimes.core.randomness import seed32
from regimes.study import files
from regimes.workloads.corpus import load_corpus
from regimes.workloads.masked_lm import masked, masked_lm

EXAMPLE = Path(__file__).parents[2] / "examples" / "regimes" / "masked_words.yaml"
LENGTH = 64
CODE = load_corpus(("code",), max_bytes_per_domain=100_000)["code"].train
WINDOWS = CODE[: len(CODE) // LENGTH * LENGTH].view(-1, LENGTH).long()
#: Windows of which at least half are letters, so that any ratio up to there can be reached.
WORDY = WINDOWS[[len(re.findall(rb"\w", bytes(row))) >= 32 for row in WINDOWS.tolist()]]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def words(row, pattern=rb"[0-9A-Z_a-z\x80-\xff]+"):
    return [match.span() for match in re.finditer(pattern, bytes(row.tolist()))]


def applied(tokens, ratio, seed=0, **settings):
    return rg.MaskWords(ratio, **settings).apply({}, (tokens, tokens), generator(seed))


@pytest.mark.exact("MaskWords")
@pytest.mark.parametrize("ratio", [0.01, 0.15, 0.3, 0.5, 1.0])
def test_words_are_masked_whole_and_nothing_else_is_touched(ratio):
    inputs, targets = applied(WINDOWS, ratio)
    hidden = targets != IGNORE
    assert torch.equal(targets[hidden], WINDOWS[hidden])
    assert (inputs[hidden] == 0).all()
    assert torch.equal(inputs[~hidden], WINDOWS[~hidden])
    for row, flags in zip(WINDOWS, hidden):
        spans = words(row)
        assert sum(int(flags[a:b].sum()) for a, b in spans) == int(flags.sum())
        assert all(flags[a:b].all() or not flags[a:b].any() for a, b in spans)
        if ratio == 1.0:
            assert sum(b - a for a, b in spans) == int(flags.sum())


@pytest.mark.exact("MaskWords")
@pytest.mark.parametrize("ratio", [0.05, 0.15, 0.3, 0.5])
def test_the_share_is_within_a_word_of_the_ratio_in_every_window_and_is_it_on_average(ratio):
    assert len(WORDY) > 500
    longest = [max(b - a for a, b in words(row)) for row in WORDY]
    shares = []
    for seed in range(20):
        counts = (applied(WORDY, ratio, seed)[1] != IGNORE).sum(1)
        assert all(abs(int(n) - ratio * LENGTH) < word for n, word in zip(counts, longest))
        shares.append(counts.double().mean().item() / LENGTH)
    # Windows are independent: the error of the mean is what its spread over repetitions says.
    assert np.mean(shares) == pytest.approx(ratio, abs=4 * np.std(shares, ddof=1) / np.sqrt(20) + 1e-12)
    assert np.std(shares) < 0.003


@pytest.mark.exact("MaskWords")
def test_it_is_what_a_plain_twin_masks():
    """Word by word, in Python, from the same numbers."""
    ratio, drawn = 0.3, torch.rand(len(WINDOWS), LENGTH + 1, generator=generator(5))
    hidden = applied(WINDOWS, ratio, 5)[1] != IGNORE
    for row, flags, numbers in zip(WINDOWS, hidden, drawn):
        wanted, before = torch.zeros(LENGTH, dtype=torch.bool), 0
        for a, b in sorted(words(row), key=lambda span: numbers[span[0]].item()):
            if before + numbers[LENGTH] * (b - a) < ratio * LENGTH:
                wanted[a:b] = True
            before += b - a
        assert torch.equal(flags, wanted)


@pytest.mark.exact("MaskWords")
def test_every_order_of_words_is_as_likely():
    """Of words of 1, 2 and 3 letters in a window of 8 bytes, at 1/8: one letter on average, by hand."""
    letter = torch.tensor([[c != " " for c in "a bb ccc"]]).expand(60_000, -1)
    hidden = chosen_words(letter, 1 / 8, generator(1))
    # The first word is masked with chance 1 / length: 1, 1/2 or 1/3; only `a` can be followed by no other.
    chances = torch.tensor([1 / 3, 1 / 6, 1 / 9])
    found = hidden[:, [0, 2, 5]].double().mean(0)
    assert torch.allclose(found, chances.double(), atol=0.008)
    assert hidden[:, [0, 2, 5]].sum(1).max() == 1


def test_letters_and_mask_are_what_is_said():
    tokens = torch.tensor([list(b"ab-12-cd")])
    inputs, _ = applied(tokens, 1.0, letters="a-z", mask=ord("?"))
    assert bytes(inputs[0].tolist()) == b"??-12-??"
    inputs, _ = applied(tokens, 1.0, letters="^-", mask=ord("?"))
    assert bytes(inputs[0].tolist()) == b"??-??-??"
    umlaut = torch.tensor([list("für x".encode())])
    assert applied(umlaut, 1.0)[0].tolist() == [[0, 0, 0, 0, ord(" "), 0]]


REFUSALS = [
    (lambda: rg.MaskWords(0.0), "ratio: got 0.0; allowed: a finite number > 0 and <= 1"),
    (lambda: rg.MaskWords(letters="z-a"), "letters: got 'z-a', which is no character class"),
    (lambda: applied(torch.zeros(2, 3), 0.5), r"allowed: a batch \(tokens, ...\) whose tokens are bytes"),
    (lambda: applied(torch.zeros(2, dtype=torch.long), 0.5), "augment: got"),
    (lambda: rg.MaskWords().apply({}, {"x": WINDOWS}, generator()), "augment: got"),
    (lambda: applied(torch.tensor([[3, 300]]), 0.5), "augment: got token 300; allowed: bytes"),
]


@pytest.mark.parametrize(("build", "said"), REFUSALS)
def test_refused_with_a_sentence(build, said):
    with pytest.raises(rg.DeclarationError, match=said):
        build()


# -- in a run -------------------------------------------------------------------------------------------------------


class Seen(nn.Module):
    """Remembers the tokens that it is shown."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(256, 256)
        self.shown = []

    def forward(self, tokens):
        self.shown.append(tokens.clone())
        return self.table(tokens)


def shown(regime, seed=0, steps=None):
    work = rg.Workload(model=Seen, train=rg.TextWindows(CODE, LENGTH), loss=rg.NextToken())
    run, found, records = rg.Run(work, regime, seed, count_flops=False), [], []
    while not run.finished and len(records) != steps:
        run.model.shown.clear()
        records.append(run.step())
        found.append(list(run.model.shown))
    return found, records


BASE = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps", augment=[rg.MaskWords(0.3)])


def test_masks_are_addressed_by_seed_step_and_micro_batch():
    whole, _ = shown(BASE)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole, shown(BASE)[0]))
    assert not torch.equal(whole[0][0], shown(BASE, seed=1)[0][0][0])
    # Both evaluations of a step see the same masks, whatever is drawn between them.
    twice, _ = shown(BASE.but(optimizer=rg.SAM(rg.SGD(lr=0.1))))
    assert all(torch.equal(first, second) and torch.equal(first, one[0]) for (first, second), one in zip(twice, whole))
    # Micro-batch 0 has masks of its own, which do not depend on how large the batch around it is.
    four, _ = shown(BASE.but(micro_batch=4))
    sequential = BASE.but(sampler=rg.Sequential(), micro_batch=4)
    assert [len(step) for step in four] == [2, 2, 2, 2]
    larger, _ = shown(sequential.but(batch_size=12))
    assert torch.equal(shown(sequential)[0][0][0], larger[0][0])
    same_text = sequential.but(batch_size=4)
    assert not torch.equal(shown(same_text)[0][0][0] == 0, shown(same_text)[0][1][0] == 0)


def test_only_masked_tokens_count_and_the_ratio_is_on_record():
    regime = BASE.but(augment=[rg.MaskWords(rg.Linear(0.5, 0.1))], budget="8 steps")
    found, records = shown(regime)
    assert [r.knobs["augment.0.ratio"] for r in records] == pytest.approx([0.5 - 0.05 * step for step in range(8)])
    masked_ = [int((step[0] == 0).sum()) for step in found]
    assert [b.at.tokens - a.at.tokens for a, b in zip(records, records[1:])] == masked_[:-1]


@pytest.mark.exact("MaskWords")
def test_the_loss_is_the_cross_entropy_of_masked_tokens():
    work = masked_lm(width=16, layers=1)
    run = rg.Run(work, BASE, 0, count_flops=False)
    (tokens, _), plan = run.read(run.frame.plans[0]), run.frame.plans[0]
    seed = seed32(0, "main", "augment", 0, plan.step, 0)
    inputs, targets = rg.MaskWords(0.3).apply({}, (tokens, tokens), generator(seed))
    logits = run.model(inputs).log_softmax(-1)
    wanted = -logits.gather(2, tokens[..., None])[..., 0][targets != IGNORE].mean().item()
    assert run.step().loss == pytest.approx(wanted, rel=1e-6)


# -- the workload ---------------------------------------------------------------------------------------------------


def test_held_out_text_is_masked_once_and_for_all_at_15_percent():
    first, again = masked_lm(), masked_lm(width=32)
    for split in ("val", "test"):
        inputs, targets = first.sources[split]["code"].fetch(np.arange(200), {})
        other, _ = again.sources[split]["code"].fetch(np.arange(200), {})
        assert torch.equal(inputs, other)
        hidden = targets != IGNORE
        for row, flags in zip(torch.where(hidden, targets, inputs), hidden):
            lengths = [b - a for a, b in words(row)]
            aim = min(0.15 * LENGTH, sum(lengths))
            assert abs(int(flags.sum()) - aim) < max(lengths, default=1)
        assert set(inputs[hidden].tolist()) == {0}
    text = load_corpus(("code",))["code"].val[:16_000]
    assert torch.equal(
        masked(text, 64, "val", "code")[0][:200], first.sources["val"]["code"].fetch(np.arange(200), {})[0]
    )


def test_an_encoder_sees_both_sides():
    model = masked_lm(width=16, layers=1).build(0)
    with torch.no_grad():
        model.blocks[0].attention.out.weight.normal_(generator=generator())
    tokens = WINDOWS[:1].clone()
    before = model(tokens)
    tokens[0, -1] += 1
    assert not torch.allclose(before[0, 0], model(tokens)[0, 0])
    assert torch.equal(before[0, 0], model(WINDOWS[:1])[0, 0])


def test_training_without_masks_is_refused():
    with pytest.raises(
        rg.DeclarationError, match=r"augment: got nothing, but masked_lm .* augment=\[MaskWords\(0.15\)\]"
    ):
        rg.run(masked_lm(width=16, layers=1), BASE.but(augment=[]))


def test_the_example_couples_three_schedules_over_two_phases():
    found = files.read(EXAMPLE)
    run = rg.Run(found.workload, found.regime.but({"budget": "20 steps"}), 0, count_flops=False)
    records, shapes = [], []
    while not run.finished:
        plan = run.frame.plans[0]
        shapes.append((run.phase.name, len(plan), plan.columns.get("length", 128)))
        records.append(run.step())
    assert shapes == [("short", 16, 32)] * 14 + [("long", 4, 128)] * 6
    rate = rg.DampedCosine(3e-3, 2.5, 1.5, warmup="5%")
    assert [r.knobs["optimizer.lr"] for r in records] == pytest.approx([rate(step / 20) for step in range(20)])
    ratios = [r.knobs["augment.0.ratio"] for r in records]
    assert ratios == pytest.approx([0.3 - 0.15 * step / 20 for step in range(20)])
    assert run.seams[0]["carried"] == ["model", "optimizer"]
