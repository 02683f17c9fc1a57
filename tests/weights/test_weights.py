"""Weights of finished runs: loaded, charged, part of the identity, refused; soups: uniform, greedy, learned; the way between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.identity import identity
from regimes.study import soups
from regimes.weights.soup import mixed

X = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] - X[:, 1] > 0).long()


def work(**given) -> rg.Workload:
    settings = {"model": lambda: nn.Linear(3, 2), "train": (X[:40], Y[:40]), "val": (X[40:], Y[40:])}
    return rg.Workload(**settings | {"loss": nn.CrossEntropyLoss(), "metrics": {"acc": rg.Accuracy()}} | given)


BASE = rg.Regime(optimizer=rg.SGD(lr=0.5), batch_size=8, budget="10 steps")


@pytest.fixture
def runs(tmp_path):
    """Three runs of three rates, and their folders."""
    found = {}
    for name, lr in (("a", 0.5), ("b", 0.05), ("c", 60.0)):
        regime = BASE.but(**{"optimizer.lr": lr, "average": rg.EMA(0.5)})
        found[str(tmp_path / name)] = rg.run(work(), regime, 0, out=tmp_path / name)
    return found


def states(runs):
    return [dict(rg.FromRun(path).load()) for path in runs]


@pytest.mark.exact("FromRun")
def test_judged_and_raw_weights(runs):
    path, result = next(iter(runs.items()))
    for name, value in rg.FromRun(path).load().items():
        assert torch.equal(value, result.model.state_dict()[name])
    raw = rg.FromRun(path, "raw").load()
    assert any(not torch.equal(raw[name], value) for name, value in rg.FromRun(path).load().items())
    # In the file tensors begin anywhere, and a product of such ones may differ in its last bit from that of copies.
    assert not any(value.data_ptr() % 64 for value in raw.values())


@pytest.mark.exact("FromRun", "StartFrom")
@pytest.mark.parametrize("which", ["judged", "raw"])
def test_training_goes_on_from_what_was_learned_by_hand(runs, which):
    """The first loss is that of the given weights on the first batch, and the first step one of torch's from there."""
    path = next(iter(runs))
    run = rg.Run(work(), BASE.but(on_entry=rg.StartFrom(rg.FromRun(path, which))), 7)
    file = "model" if which == "judged" else "raw"
    from safetensors.torch import load_file

    twin = nn.Linear(3, 2)
    twin.load_state_dict(load_file(f"{path}/final/{file}.safetensors"))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    while not run.finished:
        indices = torch.from_numpy(run.frame.plans[0].indices)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(twin(X[:40][indices]), Y[:40][indices])
        loss.backward()
        optimizer.step()
        assert run.step().loss == pytest.approx(loss.item(), rel=1e-6)
    for p, q in zip(run.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)


@pytest.mark.exact("StartFrom")
def test_a_second_run_from_the_first_is_a_second_phase(tmp_path):
    """Running statistics, which are no parameters, go over too: both end in the same bits."""
    model = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))  # noqa: E731
    phases = [rg.Phase("one", budget="5 steps"), rg.Phase("two", budget="5 steps", sampler=rg.Sequential())]
    common = {"optimizer": rg.SGD(lr=0.1), "batch_size": 8}
    both = rg.run(work(model=model), rg.Regime(phases=phases, **common), 3)
    rg.run(work(model=model), rg.Regime(phases=phases[:1], **common), 3, out=tmp_path / "one")
    start = rg.StartFrom(rg.FromRun(str(tmp_path / "one")))
    two = rg.Phase("two", budget="5 steps", sampler=rg.Sequential(), on_entry=start)
    second = rg.run(work(model=model), rg.Regime(phases=[two], **common), 8)
    assert [row["loss"] for row in second.records] == [row["loss"] for row in both.records[5:]]
    for name, value in both.model.state_dict().items():
        if name != "1.num_batches_tracked":
            assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_phase_starts_from_a_run_and_pays_for_it(runs):
    path, result = next(iter(runs.items()))
    spent = result.work.flops + result.work.side_flops
    assert spent > 0
    run = rg.Run(work(), BASE.but(on_entry=rg.StartFrom(rg.FromRun(path))))
    assert all(torch.equal(p, rg.FromRun(path).load()[name]) for name, p in run.model.state_dict().items())
    assert run.work.side_flops == spent
    assert run.work.before_phase == spent
    free = rg.Run(work(), BASE.but(on_entry=rg.StartFrom(rg.FromRun(path, charge=False))))
    assert free.work.side_flops == 0


def test_a_resumed_run_pays_once(runs, tmp_path):
    path = next(iter(runs))
    regime = BASE.but(on_entry=rg.StartFrom(rg.FromRun(path)))
    whole = rg.run(work(), regime, out=tmp_path / "whole")
    stream = rg.stream(work(), regime, out=tmp_path / "cut", checkpoint="10%")
    for _ in range(4):
        next(stream)
    stream.close()
    again = rg.run(work(), regime, out=tmp_path / "cut")
    assert again.work.state() == whole.work.state()
    final = "final/model.safetensors"
    assert (tmp_path / "cut" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


def test_identity_knows_the_content(runs, tmp_path):
    first = next(iter(runs))
    regime = BASE.but(on_entry=rg.StartFrom(rg.FromRun(first)))
    before = identity(rg.Run(work(), regime))["given weights"]
    assert list(before) == ["main.on_entry.0.weights"]
    (tmp_path / "a" / "final" / "model.safetensors").write_bytes(
        (tmp_path / "b" / "final" / "model.safetensors").read_bytes()
    )
    assert identity(rg.Run(work(), regime))["given weights"] != before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda path: rg.FromRun(path + "x"), r"got '.*ax', which holds no finished run; .* for example .*/a, .*/b"),
        (
            lambda path: rg.Soup([rg.FromRun(path), rg.FromRun("nowhere")]),
            r"ingredients.1.*'nowhere', which holds no fin",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_spent(runs, given, said):
    later = [
        rg.Phase(name="one", budget="50%"),
        rg.Phase(name="two", budget="50%", on_entry=[rg.StartFrom(given(next(iter(runs))))]),
    ]
    regime = rg.Regime(phases=later, optimizer=rg.SGD(lr=0.1), batch_size=8, budget="10 steps")
    with pytest.raises(rg.DeclarationError, match=said):
        rg.Run(work(), regime)


def test_weights_of_another_model_are_refused(runs):
    regime = BASE.but(on_entry=rg.StartFrom(rg.FromRun(next(iter(runs)))))
    with pytest.raises(rg.DeclarationError, match="does not fit: another shape of 'weight'"):
        rg.Run(work(model=lambda: nn.Linear(3, 2 + 1)), regime)
    with pytest.raises(rg.DeclarationError, match=r"does not fit: they have no '0\.bias'"):
        rg.Run(work(model=lambda: nn.Sequential(nn.Linear(3, 2))), regime)


# -- soups -----------------------------------------------------------------------------------------------------------


@pytest.mark.exact("Soup")
def test_a_soup_of_one_model_is_that_model(runs):
    path = next(iter(runs))
    same = rg.Soup([rg.FromRun(path)] * 3).load()
    assert all(torch.equal(value, same[name]) for name, value in rg.FromRun(path).load().items())


@pytest.mark.exact("Soup")
def test_outputs_of_a_soup_of_linear_models_are_the_mean_of_outputs(runs):
    parts, shares = states(runs), (0.5, 0.3, 0.2)
    soup = rg.Soup([rg.FromRun(path) for path in runs], shares).load()
    wanted = sum(a * (X.double() @ s["weight"].double().T + s["bias"].double()) for a, s in zip(shares, parts))
    torch.testing.assert_close(X @ soup["weight"].T + soup["bias"], wanted.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.exact("Soup")
def test_whole_numbers_are_the_firsts():
    one, two = {"n": torch.tensor(3), "w": torch.tensor(1.0)}, {"n": torch.tensor(9), "w": torch.tensor(2.0)}
    assert mixed([one, two], (0.5, 0.5)) == {"n": torch.tensor(3), "w": torch.tensor(1.5)}


@pytest.mark.exact("Soup")
def test_greedy_soup_against_a_plain_twin(runs):
    """Over all orders of trying: the score never falls, and what is kept is what the plain rule keeps."""
    found = soups.greedy_soup(work(), [rg.FromRun(path) for path in runs])

    def loss(state):
        return nn.functional.cross_entropy(X[40:] @ state["weight"].T + state["bias"], Y[40:]).item()

    ranked = sorted(zip(runs, states(runs)), key=lambda pair: loss(pair[1]))
    kept, best = [ranked[0]], loss(ranked[0][1])
    for pair in ranked[1:]:
        mean = {n: torch.stack([s[n] for _, s in [*kept, pair]]).mean(0) for n in pair[1]}
        if loss(mean) <= best:
            kept, best = [*kept, pair], loss(mean)
    assert [part.path for part in found.soup.ingredients] == [path for path, _ in kept]
    assert found.score == pytest.approx(best, abs=1e-6)
    assert found.score <= min(found.scores.values())


def test_greedy_soup_keeps_a_tie_and_reads_higher_is_better(runs):
    path = next(iter(runs))
    twice = soups.greedy_soup(work(), [rg.FromRun(path), rg.FromRun(path)], "acc", "higher")
    assert len(twice.soup.ingredients) == 2
    assert twice.score == max(twice.scores.values())
    with pytest.raises(rg.DeclarationError, match="metric: got 'accuracy'; "):
        soups.greedy_soup(work(), [rg.FromRun(path)], "accuracy", "higher")


@pytest.mark.exact("Soup")
def test_learned_shares_are_a_minimum(runs):
    """Against a grid over the shares of two ingredients."""
    wrong = Y[40:].clone()
    wrong[::4] = 1 - wrong[::4]  # large outputs cost where labels are wrong: neither end is best
    task = work(val=(X[40:], wrong))
    parts = [rg.FromRun(path) for path in list(runs)[1:]]
    found = soups.learned_soup(task, parts, steps=400)
    loaded = [part.load() for part in parts]
    grid = [soups.score(task, mixed(loaded, (1 - t, t)))["loss"] for t in torch.linspace(0, 1, 101).tolist()]
    assert 0 < grid.index(min(grid)) < 100
    assert found.score <= min(grid) + 1e-6
    assert sum(found.soup.shares) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.exact("Soup")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
def test_a_score_that_is_no_number_is_the_worst_wherever_it_stands(runs, order, tmp_path):
    from safetensors.torch import load_file, save_file

    paths = list(runs)
    file = tmp_path / "c" / "final" / "model.safetensors"
    save_file({name: value * float("nan") for name, value in load_file(file).items()}, file)
    wanted = soups.greedy_soup(work(), [rg.FromRun(path) for path in paths[:2]])
    found = soups.greedy_soup(work(), [rg.FromRun(paths[place]) for place in order])
    assert {part.path for part in found.soup.ingredients} == {part.path for part in wanted.soup.ingredients}
    assert found.score == pytest.approx(wanted.score, abs=1e-6)
    with pytest.raises(rg.DeclarationError, match="ingredients: got loss nan from the best of them"):
        soups.greedy_soup(work(), [rg.FromRun(paths[2])] * 2)
    place = order.index(2)
    with pytest.raises(rg.DeclarationError, match=rf"ingredients.{place}: got FromRun\(.*/c'\), whose loss is nan"):
        soups.learned_soup(work(), [rg.FromRun(paths[place]) for place in order], steps=1)


@pytest.mark.exact("Soup")
def test_learned_shares_are_of_running_statistics_too(tmp_path):
    """The statistics of what came off far from 0 decide which ingredient is better: the shares have to see them."""
    far = 3 * X + torch.tensor([-20.0, 0.0, 20.0])

    def task():
        model = lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))  # noqa: E731
        return work(model=model, train=(far[:40], Y[:40]), val=(far[40:], Y[40:]))

    for name, steps in (("long", 60), ("short", 6)):
        rg.run(task(), BASE.but(budget=f"{steps} steps"), 0, out=tmp_path / name)
    parts = [rg.FromRun(str(tmp_path / name)) for name in ("long", "short")]
    loaded = [part.load() for part in parts]
    grid = {t: soups.score(task(), mixed(loaded, (1 - t, t)))["loss"] for t in torch.linspace(0, 1, 21).tolist()}
    found = soups.learned_soup(task(), parts, steps=300)
    assert max(grid.values()) > min(grid.values()) + 0.2
    assert found.score <= min(grid.values()) + 0.01


@pytest.mark.exact("Soup")
def test_the_way_between_two_weights(runs):
    a, b, _ = (rg.FromRun(path) for path in runs)
    losses = soups.path_loss(work(), a, b, points=5)
    assert losses[0] == soups.score(work(), a.load())["loss"]
    assert losses[2] == soups.score(work(), rg.Soup([a, b]).load())["loss"]
    assert soups.barrier(losses) == pytest.approx(0.0, abs=1e-9)  # convex: the line lies above


def test_a_declaration_prints_itself_back():
    soup = rg.Soup([rg.FromRun("a"), rg.FromRun("b", "raw", charge=False)], (1.0, 2.0))
    from regimes.core.notation import parse

    assert parse(repr(soup)) == soup
    with pytest.raises(rg.DeclarationError, match="shares: got .* for 1 ingredients; allowed: one share for each"):
        rg.Soup([rg.FromRun("a")], (1.0, 2.0))
