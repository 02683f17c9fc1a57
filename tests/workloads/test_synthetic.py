"""Generated problems: what their docstrings promise, exactly, and from the seed alone."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from regimes.workloads.synthetic import (
    add_noise,
    alpha_bar,
    modular_addition,
    philox,
    skill_chain,
    teacher_student,
    two_moons,
    with_errors,
)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b))


def test_philox_is_numpys_keyed_by_a_hash_of_name_and_seed():
    key = int.from_bytes(hashlib.sha256(b"two_moons:7").digest()[:16], "little")
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal(4)
    assert philox("two_moons", 7).standard_normal(4).tolist() == expected.tolist()
    for seed in (-1, 1.0, True):
        with pytest.raises(ValueError, match="seed: got"):
            philox("two_moons", seed)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: teacher_student(seed=seed).train,
        lambda seed: two_moons(seed=seed),
        lambda seed: modular_addition(p=11, seed=seed).train,
        lambda seed: skill_chain(seed=seed)["skill5"].train,
    ],
)
def test_the_seed_decides_and_no_global_generator_is_touched(make):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = make(0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, make(0))
    assert not same(first, make(1))


def test_teacher_labels_are_the_teacher_plus_noise_that_scales():
    problems = {noise: teacher_student(noise=noise, outputs=2, seed=3, dtype=torch.float64) for noise in (0, 0.1, 0.5)}
    clean = problems[0]
    for split in ("train", "val", "test"):
        x, y = getattr(clean, split)
        torch.testing.assert_close(clean.teacher(x), y, rtol=0, atol=1e-13)
        noises = [(getattr(problems[noise], split).y - y) / noise for noise in (0.1, 0.5)]
        torch.testing.assert_close(*noises, rtol=0, atol=1e-13)
        assert noises[0].std().item() == pytest.approx(1, abs=0.1)
        assert torch.equal(getattr(problems[0.5], split).x, x)
    torch.testing.assert_close(clean.train.y.mean(0), torch.zeros(2).double(), rtol=0, atol=1e-13)
    torch.testing.assert_close(clean.train.y.std(0, correction=0), torch.ones(2).double(), rtol=1e-12, atol=0)
    assert not any(parameter.requires_grad for parameter in clean.teacher.parameters())
    assert problems[0.5].best_loss == 0.25


def test_teacher_is_a_plain_two_layer_network():
    problem = teacher_student(inputs=5, hidden=3, dtype=torch.float64)
    state = problem.teacher.state_dict()
    x = problem.test.x
    hidden = (x @ state["layers.0.weight"].T + state["layers.0.bias"]).clamp(min=0)
    torch.testing.assert_close(problem.teacher(x), hidden @ state["layers.1.weight"].T + state["layers.1.bias"])
    assert [len(split.y) for split in (problem.train, problem.val, problem.test)] == [4096, 1024, 1024]


def test_two_moons_without_noise_lie_on_their_half_circles():
    x, y = two_moons(1001, noise=0, dtype=torch.float64)
    assert y.bincount().tolist() == [501, 500]
    for points, center, side in ((x[y == 0], (0, 0), 1), (x[y == 1], (1, 0.5), -1)):
        offset = points - torch.tensor(center).double()
        torch.testing.assert_close(offset.norm(dim=1), torch.ones(len(points)).double(), rtol=1e-13, atol=0)
        assert (side * offset[:, 1] >= 0).all()
        angle = (offset * side)[:, 0].acos() / math.pi
        assert angle.mean().item() == pytest.approx(0.5, abs=0.05)
    noisy, labels = two_moons(1001, noise=0.2, dtype=torch.float64)
    assert torch.equal(labels, y)
    assert (noisy - x).std().item() == pytest.approx(0.2, rel=0.05)


def test_modular_addition_is_the_whole_table_once():
    table = modular_addition(p=13, fraction=0.3)
    assert [len(split.y) for split in (table.train, table.val, table.test)] == [50, 59, 60]
    x = torch.cat([table.train.x, table.val.x, table.test.x])
    y = torch.cat([table.train.y, table.val.y, table.test.y])
    assert torch.equal(x.unique(dim=0), torch.cartesian_prod(torch.arange(13), torch.arange(13)))
    assert torch.equal(y, (x[:, 0] + x[:, 1]) % 13)


@pytest.mark.parametrize(("steps", "schedule"), [(1000, "linear"), (100, "linear"), (1000, "cosine"), (10, "cosine")])
def test_alpha_bar_against_the_formula_step_by_step(steps, schedule):
    table = alpha_bar(steps, schedule)
    left = 1.0
    for t in range(steps):
        if schedule == "linear":
            beta = (1e-4 + (0.02 - 1e-4) * t / (steps - 1)) * 1000 / steps
        else:
            now, before = (math.cos((u / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (t + 1, t))
            beta = 1 - now / before
        left *= 1 - min(beta, 0.999)
        assert table[t].item() == pytest.approx(left, rel=1e-11)
    assert table.dtype == torch.float64
    assert 0 < table[-1] < 1e-3
    assert (table.diff() < 0).all()


def test_noising_keeps_unit_variance_and_can_be_undone():
    table = alpha_bar(100)
    x, eps = torch.randn(2, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 10, 50, 98, 99])
    noisy = add_noise(x, eps, t, table)
    for i in range(5):
        a = table[t[i]].item()
        torch.testing.assert_close((noisy[i] - (1 - a) ** 0.5 * eps[i]) / a**0.5, x[i], rtol=1e-10, atol=1e-10)
        assert add_noise(torch.ones(1, 1), torch.zeros(1, 1), t[i : i + 1], table).item() ** 2 == pytest.approx(a)
    assert add_noise(x.float(), eps.float(), t, table).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: teacher_student(noise=-1), "noise: got -1; allowed is a standard deviation of at least 0."),
        (lambda: teacher_student(hidden=0), "hidden: got 0; allowed is a whole number of at least 1."),
        (lambda: teacher_student(train=1), "train: got 1; allowed is a whole number of at least 2."),
        (lambda: two_moons(1), "n: got 1"),
        (lambda: two_moons(noise=math.nan), "noise: got nan"),
        (lambda: modular_addition(p=1), "p: got 1"),
        (lambda: modular_addition(fraction=1.0), "fraction: got 1.0; allowed is a number strictly between 0 and 1."),
        (lambda: modular_addition(p=2, fraction=0.8), "leaves a split of the 4 examples empty"),
        (lambda: alpha_bar(0), "steps: got 0"),
        (lambda: alpha_bar(10, "cos"), "schedule: got 'cos'; allowed are 'linear' and 'cosine'."),
    ],
)
def test_refusals(make, sentence):
    with pytest.raises(ValueError) as refused:
        make()
    assert sentence in str(refused.value)


def test_skills_are_sums_of_one_term_more_each_over_the_same_chains_of_which_none_comes_twice():
    made = skill_chain(skills=3, modulus=4, length=5, train=500, held_out=100, seed=2)
    assert list(made) == ["skill1", "skill2", "skill3"]
    chains = []
    for split, count in (("train", 500), ("val", 100), ("test", 100)):
        tables = [getattr(table, split) for table in made.values()]
        terms = tables[0].x[:, :20].unflatten(1, (5, 4))
        assert torch.equal(terms.sum(2), torch.ones(count, 5))
        digits = terms.argmax(2)
        for place, table in enumerate(tables):
            asked = torch.eye(3)[place].expand(count, 3)
            assert torch.equal(table.x, torch.cat((terms.flatten(1), asked), 1))
            assert table.y.tolist() == [sum(row[: place + 1]) % 4 for row in digits.tolist()]
        chains += map(tuple, digits.tolist())
    assert len(set(chains)) == 700


def test_all_chains_of_two_values_are_equal_and_opposite():
    table = skill_chain(skills=2, modulus=2, length=2, train=2, held_out=1)["skill2"]
    x, y = (torch.cat(parts) for parts in zip(table.train, table.val, table.test))
    signs = 1 - 2 * x[:, [1, 3]]
    assert sorted(signs.tolist()) == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert torch.equal(1 - 2 * y, signs.prod(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 4}, "length: got 4; allowed is a whole number of at least 5"),
        ({"modulus": 1}, "modulus: got 1; allowed is a whole number of at least 2"),
        ({"length": 11}, r"length: got 11; allowed are at most 2\^24 chains, and there would be 48828125"),
        ({"train": 15000}, "train: got 15000 chains and twice 512 held out; there are 15625 in all"),
    ],
)
def test_chains_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        skill_chain(**arguments)


def test_errors_are_drawn_from_the_text_where_chance_says_so_and_nowhere_else():
    text = torch.arange(200_000) % 251
    draw = philox("errors", 4)
    wrong = torch.from_numpy(draw.random(len(text), dtype=np.float32) < 0.2)
    others = text[draw.integers(0, len(text), len(text))]
    found = with_errors(text, 0.2, seed=4)
    assert torch.equal(found[~wrong], text[~wrong])
    assert torch.equal(found[wrong], others[wrong])
    assert abs(wrong.double().mean().item() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / len(text))  # four standard errors
    assert torch.equal(with_errors(text, 0.0), text)
    with pytest.raises(ValueError, match="share: got 1.5; allowed is a share from 0 to 1"):
        with_errors(text, 1.5)


def test_a_noisy_source_of_char_lm_is_its_first_domain_with_errors_and_not_judged():
    from regimes.workloads import load

    clean, noisy = load("char_lm", domains=("prose",)), load("char_lm", domains=("prose",), noise=0.3)
    assert (list(clean.sources["train"]), list(noisy.sources["train"])) == (["prose"], ["prose", "noisy"])
    assert [list(noisy.sources[split]) for split in ("val", "test")] == [["prose"], ["prose"]]
    here = np.arange(50)
    plain, _ = noisy.sources["train"]["prose"].fetch(here, {})
    changed, _ = noisy.sources["train"]["noisy"].fetch(here, {})
    assert torch.equal(plain, clean.sources["train"]["prose"].fetch(here, {})[0])
    assert 0.2 < (changed != plain).double().mean().item() < 0.3
