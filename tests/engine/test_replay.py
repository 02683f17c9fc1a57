"""A window made again is byte for byte the run's, whatever looks on; and what it says of the window is so."""

import functools
import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.errors import DeclarationError, ResumeError
from regimes.engine import trees
from regimes.engine.stored import Stored
from regimes.testing.conformance import tiny
from regimes.testing.random_regimes import pool

_SPEC = importlib.util.spec_from_file_location("replaying", Path(__file__).with_name("replaying.py"))
replaying = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(replaying)

BASE = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.2), momentum=0.9), batch_size=8, budget="40 steps")


@functools.cache
def every_probe():
    """One of every class of probes."""
    found = {type(probe): probe for probe in reversed(pool("probe"))}
    return list(found.values())


def a_window(number, folder, work, drawn):
    """Replay a random window with every probe on; everything that is on disk is compared."""
    rng, groups = random.Random(number), replaying.steps(folder)
    start = rng.randrange(len(groups))
    stop = min(len(groups), start + rng.randrange(1, 4))
    found = rg.replay(folder, (start, stop), every_probe(), workload=work)
    assert (found.folder / "records.jsonl").read_bytes() == b"".join(groups[start:stop])
    rows = [json.loads(line) for line in (found.folder / "instruments.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(start, stop))
    assert any(row["probes"] for row in rows) or stop - start == 1  # at the end of a phase nothing is looked at


@pytest.mark.parametrize("count", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_random_windows_of_random_regimes_are_byte_for_byte_the_runs(tmp_path, count):
    runs = list(replaying.several(count, tmp_path, first=0))
    assert len(runs) == count
    with tiny.one_thread():
        for number, folder, work, drawn in runs:
            a_window(number, folder, work, drawn)


@pytest.fixture
def made(work, tmp_path):
    return rg.run(work, BASE, seed=2, out=tmp_path / "base", checkpoint="10 steps", probes=[rg.GradientNorm()])


def test_state_after_a_window_is_that_without_instruments(work, made):
    """Work that only the instruments made is no part of it."""
    from regimes.engine.replay import window

    plain = Stored(made.folder, work, BASE).again(20).until(24).tree()
    again = Stored(made.folder, work, BASE).again(20)
    list(window(again, 20, 24, [rg.Sharpness(), rg.LayerNorms()]))
    assert trees.differences(trees.clone(plain), trees.clone(again.run.tree())) == []


def test_it_begins_at_the_nearest_checkpoint(work, made):
    assert rg.replay(made, 35).trained_again == (30, 35)
    assert rg.replay(made, (30, 32)).trained_again == (30, 30)
    assert rg.replay(made, 3).trained_again == (0, 3)


def test_the_runs_folder_is_only_read(work, made):
    def listing():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(made.folder.rglob("*"))}

    before = listing()
    made.folder.chmod(0o555)
    try:
        rg.replay(made, (20, 23), ["layer_norms"], without=[_examples(made, 20)[0]])
        rg.fork(made, 20, {"lr.peak": 0.1})
    finally:
        made.folder.chmod(0o755)
    assert listing() == before


def _examples(made, step):
    return [name for name, _ in rg.replay(made, step).rows[0]["examples"]]


def test_what_is_told_equals_a_plain_computation(work, made):
    """Loss, gradient and examples of a step, by hand from the state that it begins with."""
    again = Stored(made.folder, work, BASE).again(33)
    run = again.until(33)
    plan, model = run.frame.plans[0], run.model
    x, y = work.sources["train"]["train"].fetch(plan.indices, {})
    torch.manual_seed(run.streams.seed32("forward", 33, 0))
    model.train()
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    gradients = torch.autograd.grad(losses.mean(), list(model.parameters()))
    row = rg.replay(made, 33).rows[0]
    assert dict(row["examples"]) == pytest.approx(dict(zip(map(str, plan.indices.tolist()), losses.tolist())), rel=1e-6)
    assert [loss for _, loss in row["examples"]] == sorted((loss for _, loss in row["examples"]), reverse=True)
    assert row["gradient_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradients]).norm().item(), rel=1e-5)
    assert row["gradient_norm"] == pytest.approx(np.linalg.norm(list(row["gradient"].values())), rel=1e-6)
    assert row["loss"] == made.records[33]["loss"] == pytest.approx(losses.mean().item(), rel=1e-6)
    after = Stored(made.folder, work, BASE).again(34).until(34)
    head = [dict(r.model.named_parameters()) for r in (Stored(made.folder, work, BASE).again(33).until(33), after)]
    norms = [torch.cat([p["4.weight"].flatten(), p["4.bias"]]).norm().item() for p in head]
    assert row["weight"]["4"] == pytest.approx(norms[0], rel=1e-6)
    assert row["growth"]["4"] == pytest.approx(norms[1] / norms[0] - 1.0, rel=1e-4)


def test_probes_measure_after_every_step_or_as_they_say(work, made):
    rows = rg.replay(made, (20, 26), [rg.WeightNorm(), rg.GradientNorm(every="2 steps")]).rows
    assert ["weight_norm" in row["probes"] for row in rows] == [True] * 6
    assert ["gradient_norm" in row["probes"] for row in rows] == [False, True] * 3
    by_hand = [row for row in made.records if "gradient_norm" in row]
    assert rows[1]["probes"]["gradient_norm"] == by_hand[[r["step"] for r in by_hand].index(21)]["gradient_norm"]


def test_a_changed_record_is_refused_with_step_and_field(work, made):
    file = made.folder / "records.jsonl"
    rows = file.read_text().splitlines(keepends=True)
    record = json.loads(rows[22])
    rows[22] = rows[22].replace(f'"loss": {record["loss"]!r}', f'"loss": {record["loss"] + 1e-6!r}')
    file.write_text("".join(rows))
    with pytest.raises(ResumeError, match=r"at step 22 'loss' is 0\.\d+, and the record says"):
        rg.replay(made, (20, 24))
    assert len(rg.replay(made, (30, 35)).rows) == 5  # from a checkpoint behind it
    rows[22] = "{\n"
    file.write_text("".join(rows))
    with pytest.raises(ResumeError, match="there is no whole record of step 22"):
        rg.replay(made, (20, 24), out=made.folder.with_name("other"))


def test_edited_code_is_refused(work, made):
    other = rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
        train=(work.sources["train"]["train"].parts["0"], work.sources["train"]["train"].parts["1"])
        if isinstance(work.sources["train"]["train"].parts, dict)
        else tuple(work.sources["train"]["train"].parts),
        loss=nn.CrossEntropyLoss(),
    )
    with pytest.raises(ResumeError, match="was trained by another .*; only what it was trained by trains it again"):
        rg.replay(made.folder, 3, workload=other)


def test_refused_are_windows_without_records_and_what_is_no_window(work, made):
    for steps in ("38:41", (40, 41)):
        with pytest.raises(DeclarationError, match=r"steps: got .*; allowed: steps 0 to 39"):
            rg.replay(made, steps)
    for steps in ("x:y", (5, 5), (6, 5), (-1, 3), 2.5, "1:2:3", True):
        with pytest.raises(DeclarationError, match="steps: got .*; allowed"):
            rg.replay(made, steps)
    with pytest.raises(DeclarationError, match="did you mean 'Sharpness'"):
        rg.replay(made, 3, ["sharpnes"])
    with pytest.raises(ResumeError, match="not kept in a folder"):
        rg.replay(rg.run(work, BASE), 3)


def test_a_folder_with_something_else_is_refused(work, made, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(DeclarationError, match="holds something else"):
        rg.replay(made, 3, out=tmp_path / "full")
    rg.replay(made, 3, out=tmp_path / "r")
    rg.replay(made, 3, out=tmp_path / "r")
    with pytest.raises(DeclarationError, match="holds something else"):
        rg.replay(made, 4, out=tmp_path / "r")


# -- without an example ------------------------------------------------------------------------------------------------


def test_without_an_example_equals_a_loop_whose_plan_lacks_it(work, made):
    example = _examples(made, 21)[0]
    found = rg.replay(made, (20, 24), without=[example])
    run = Stored(made.folder, work, BASE).again(20).until(20)
    losses = []
    for _ in range(4):
        plan = run.frame.plans[0]
        run.frame.plans[0] = plan.chosen(plan.indices != int(example))
        losses.append(run.step().loss)
    assert [row["without"] for row in found.without["losses"]] == losses
    assert [row["loss"] for row in found.without["losses"]] == [r["loss"] for r in made.records[20:24]]
    assert losses != [r["loss"] for r in made.records[20:24]]
    parent = Stored(made.folder, work, BASE).again(24).until(24)
    ours, theirs = (nn.utils.parameters_to_vector(r.model.parameters()) for r in (run, parent))
    assert found.without["distance"][""] == pytest.approx(((ours - theirs).norm() / theirs.norm()).item(), rel=1e-5)
    child = found.folder / "without"
    end = rg.run(work, BASE, seed=2, out=child, checkpoint="10 steps", probes=[rg.GradientNorm()])
    while not run.finished:
        losses.append(run.step().loss)
    assert [row["loss"] for row in end.records] == [r["loss"] for r in made.records[:20]] + losses
    assert end.lineage["without"] == {"examples": [example], "from": 20}


def test_of_several_sources_an_example_is_called_with_its_own(tmp_path):
    work = tiny.workload("classes", ("a", "b"))
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), mixture=rg.Mixture(a=0.5, b=0.5), batch_size=6, budget="8 steps")
    made = rg.run(work, regime, out=tmp_path / "r")
    names = _examples(made, 4)
    assert {name.split(":")[0] for name in names} == {"a", "b"}
    found = rg.replay(made, (4, 6), without=[names[0]])
    assert found.without["losses"][0]["without"] != found.without["losses"][0]["loss"]
    with pytest.raises(DeclarationError, match="is in no batch of the steps 4 to 5"):
        rg.replay(made, (4, 6), without=[names[0].split(":")[1]])


def test_refused_is_an_example_that_is_not_there_or_alone(work, tmp_path):
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=1, budget="6 steps")
    plain = rg.Workload(
        model=lambda: nn.Linear(6, 3), train=(torch.eye(6), torch.arange(6) % 3), loss=nn.CrossEntropyLoss()
    )
    made = rg.run(plain, regime, out=tmp_path / "r")
    (alone,) = _examples(made, 2)
    with pytest.raises(DeclarationError, match="the batch of step 2 holds nothing else"):
        rg.replay(made, 2, without=[alone])
    with pytest.raises(DeclarationError, match="got '99', which is in no batch of the steps 2 to 2"):
        rg.replay(made, 2, without=[99])
    with pytest.raises(DeclarationError, match="allowed: the number of an example"):
        rg.replay(made, 2, without=["first"])


# -- awkward runs ------------------------------------------------------------------------------------------------------


def test_a_skipped_step_names_its_examples_and_layer(tmp_path):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    x[5] = float("nan")
    work = rg.Workload(model=lambda: nn.Linear(4, 2), train=(x, torch.zeros(16).long()), loss=nn.CrossEntropyLoss())
    made = rg.run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="4 steps"), out=tmp_path / "r")
    step = next(row["step"] for row in made.records if "skipped" in row)
    row = rg.replay(made, step).rows[0]
    assert row["loss"] is None
    assert row["skipped"] == "loss"
    assert row["not_finite"]["examples"] == ["5"]


def test_a_loss_of_one_number_has_no_examples_but_a_gradient(tmp_path):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    work = rg.Workload(
        model=lambda: nn.Linear(4, 1), train=(x, x[:, :1]), loss=lambda model, batch: (model(batch[0]) - batch[1]).var()
    )
    made = rg.run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="4 steps"), out=tmp_path / "r")
    row = rg.replay(made, 2).rows[0]
    assert row["examples"] == []
    assert row["gradient_norm"] > 0.0


class Drawing(nn.Linear):
    """A forward that draws from numpy's generator."""

    def forward(self, x):
        return super().forward(x) * (1.0 + 0.1 * np.random.rand())


def test_a_forward_that_draws_from_numpy_is_made_again(tmp_path):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    work = rg.Workload(model=lambda: Drawing(4, 2), train=(x, torch.zeros(16).long()), loss=nn.CrossEntropyLoss())
    made = rg.run(work, rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=4, budget="12 steps"), out=tmp_path / "r")
    before = np.random.get_state()[1].copy()
    assert len(rg.replay(made, (0, 12)).rows) == 12
    assert np.array_equal(before, np.random.get_state()[1])


def test_a_run_that_was_killed_can_be_replayed_up_to_its_last_record(work, tmp_path):
    stream = rg.stream(work, BASE, seed=2, out=tmp_path / "r", checkpoint="4 steps")
    for _ in range(23):
        next(stream)
    stream.close()
    found = rg.replay(tmp_path / "r", (21, 23), workload=work)
    assert [row["step"] for row in found.rows] == [21, 22]
    with pytest.raises(DeclarationError, match="allowed: steps 0 to 22"):
        rg.replay(tmp_path / "r", (22, 24), workload=work)


def test_where_a_look_has_the_batch_drawn_anew_everything_sees_the_new_one(tmp_path):
    """A curriculum scores all examples before the first step and draws again; the loss is that of what is then drawn."""
    work = tiny.workload("values")
    regime = rg.Regime(
        optimizer=rg.SGD(lr=0.05), sampler=rg.OrderedPrefix(start_share=0.5), batch_size=6, budget="12 steps"
    )
    probe = rg.ExampleLoss(hardest=6, every="1 steps")
    made = rg.run(work, regime, out=tmp_path / "r", probes=[probe])
    for row in rg.replay(made, (0, 12)).rows:
        assert sum(loss for _, loss in row["examples"]) / 6 == pytest.approx(row["loss"], rel=1e-5)
        record = made.records[row["step"]]
        seen = {str(int(record[f"example_loss/hardest_{rank}_example"])) for rank in range(1, 7)}
        assert seen == {name for name, _ in row["examples"]}
