"""Decayed ends of one trunk: what a run is that had been declared so from the beginning, to the bit."""

import pytest

import regimes as rg
from regimes.core.kinds import percent_span
from regimes.core.progress import Progress
from regimes.study.edits import regime_with

SHAPES = ["linear", "sqrt", "cosine", "exponential", "inverse"]


def regime(lr, budget="40 steps", **more):
    return rg.Regime(optimizer=rg.AdamW(lr=lr, weight_decay=0.1), batch_size=8, budget=budget, **more)


def rates(result, path="optimizer.lr"):
    return [row["knobs"][path] for row in result.records]


def same(child, other, ended=None):
    """Whether two runs have the same records, metrics and final weights, to the bit.

    Where the trunk `ended`, it was validated.
    """
    weights = [(result.folder / "final" / "model.safetensors").read_bytes() for result in (child, other)]
    rows = child.records
    if ended is not None:
        last = {key: value for key, value in rows[ended - 1].items() if not key.startswith("val/")}
        assert last != rows[ended - 1]
        rows = [*rows[: ended - 1], last, *rows[ended:]]
    return rows == other.records and child.metrics == other.metrics and weights[0] == weights[1]


@pytest.fixture
def trunk(work, tmp_path):
    return rg.run(work, regime(rg.Constant(0.02)), seed=3, out=tmp_path / "trunk", checkpoint="10 steps")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_branch_is_the_run_that_was_declared_so_from_the_beginning_to_the_bit(work, trunk, tmp_path, shape):
    final = 0.0 if shape in ("linear", "sqrt", "cosine") else 0.1
    made = rg.branch(trunk, [1, 10, 17, 40], "12 steps", shape=shape, final=final)
    for at, child in zip([1, 10, 17, 40], made, strict=True):
        declared = regime(rg.WSD(0.02, "12 steps", 0.02 * final, shape), f"{at + 12} steps")
        assert child.regime == declared
        assert child.lineage["at"] == at
        assert same(child, rg.run(work, declared, seed=3, out=tmp_path / f"whole-{at}"), 40 if at == 40 else None)
        assert rates(child)[at - 1 : at + 1] == [0.02, 0.02]
        assert rates(child)[-1] < 0.02
    assert len({child.folder for child in made}) == 4


@pytest.mark.parametrize("warm", ["8 steps", "12.5%"])
@pytest.mark.parametrize("held", [rg.Constant(0.02), rg.WSD(0.02, "16 steps", decay_shape="sqrt")])
def test_with_a_warm_up_too_where_it_is_the_same_share_to_the_bit(work, tmp_path, held, warm):
    """Over 64 and over 32 steps nothing is rounded."""
    made = rg.run(work, regime(held.replace("warmup", warm), "64 steps"), seed=3, out=tmp_path / "r")
    (child,) = rg.branch(made, 24, "8 steps")
    declared = regime(rg.WSD(0.02, "8 steps", warmup="8 steps"), "32 steps")
    assert child.regime == declared
    assert same(child, rg.run(work, declared, seed=3, out=tmp_path / "whole"))


def test_over_other_lengths_a_warm_up_is_the_same_up_to_its_last_digit(work, tmp_path):
    made = rg.run(work, regime(rg.Constant(0.02, warmup="7 steps"), "61 steps"), seed=3, out=tmp_path / "r")
    (child,) = rg.branch(made, 24, "13 steps")
    whole = rg.run(work, child.regime, seed=3, out=tmp_path / "whole")
    assert rates(child)[7:] == rates(whole)[7:]
    assert rates(child)[:7] == pytest.approx(rates(whole)[:7], rel=3e-16)
    assert rates(child) != rates(whole)  # which is why no more is promised


@pytest.mark.parametrize(
    ("budget", "unit"), [("320 samples", "samples"), ("4 epochs", "samples"), ("40 steps", "steps")]
)
def test_a_percentage_is_of_the_branch_in_all(work, tmp_path, budget, unit):
    made = rg.run(work, regime(rg.Constant(0.02), budget), out=tmp_path / "r")
    assert made.steps in (40, 20)
    (child,) = rg.branch(made, 16, "20%")
    assert child.steps == 20
    amount = {"samples": "32 samples", "steps": "4 steps"}[unit]
    assert child.regime.optimizer.lr == rg.WSD(0.02, amount)
    assert rates(child)[15:] == pytest.approx([0.02, 0.02, 0.015, 0.01, 0.005], rel=1e-12)
    (odd,) = rg.branch(made, 10, "12%")  # 1.36 steps, or 10.9 samples
    assert odd.steps == {"samples": 12, "steps": 11}[unit]


def test_any_other_rate_is_what_it_was_and_falls_from_where_it_is(work, tmp_path):
    lr = rg.InfiniteLR(0.03, 0.02, "10 steps", "0%", warmup="4 steps")
    made = rg.run(work, regime(lr), seed=3, out=tmp_path / "r")
    for at, now in ((9, None), (20, 0.02)):
        (child,) = rg.branch(made, at, "8 steps", shape="exponential", final=0.1)
        now = rates(made)[at] if now is None else now
        assert rates(child)[:at] == rates(made)[:at]
        assert rates(child)[at:] == pytest.approx([now * 0.1 ** (k / 8) for k in range(8)], rel=1e-12)
        function = child.regime.optimizer.lr.bind(percent_span(at + 8))
        read = [function(Progress(fraction=t / (at + 8))) for t in range(at + 8)]
        assert read == pytest.approx(rates(child), rel=1e-12)  # the declaration is true of the part before, too


def test_a_number_and_a_rate_in_its_warm_up_and_one_already_falling(work, tmp_path):
    number = rg.run(work, regime(0.02), seed=3, out=tmp_path / "number")
    (child,) = rg.branch(number, 10, "4 steps")
    assert child.regime.optimizer.lr == rg.WSD(0.02, "4 steps")
    assert "optimizer.lr" not in child.records[9]["knobs"]
    fallen = [row["knobs"]["optimizer.lr"] for row in child.records[10:]]
    assert fallen == pytest.approx([0.02 * k / 4 for k in (4, 3, 2, 1)], rel=1e-12)
    for name, lr, at in (("rising", rg.Constant(0.02, warmup="50%"), 10), ("falling", rg.WSD(0.02, "50%"), 30)):
        made = rg.run(work, regime(lr), seed=3, out=tmp_path / name)
        (child,) = rg.branch(made, at, "4 steps")
        assert rates(child)[at:] == pytest.approx([0.01 * k / 4 for k in (4, 3, 2, 1)], rel=1e-12)


def test_every_rate_falls_to_its_own_end_and_all_else_holds(work, tmp_path):
    biases = rg.Group("*.bias", rg.SGD(lr=rg.Constant(0.5), momentum=rg.Linear(0.8, 0.4)))
    rules = rg.Groups([biases, rg.Group("*", rg.AdamW(lr=rg.Constant(0.01)))])
    made = rg.run(work, rg.Regime(optimizer=rules, batch_size=8, budget="40 steps"), out=tmp_path / "r")
    (child,) = rg.branch(made, 20, "10 steps", final=0.2)
    names = [path for path in child.records[0]["knobs"] if path.endswith("lr")]
    first, second = (rates(child, name) for name in names)
    assert [first[20], second[20]] == [0.5, 0.01]
    assert [first[25], second[25]] == pytest.approx([0.6 * 0.5, 0.6 * 0.01], rel=1e-12)
    (momentum,) = (path for path in child.records[0]["knobs"] if path.endswith("momentum"))
    assert rates(child, momentum)[20:] == pytest.approx([0.6] * 10, rel=1e-12)


def test_the_same_as_a_fork_with_two_edits(trunk):
    """Which is how the command line says it: regimes fork --at 20 --set ... --set ..."""
    edits = ["optimizer.lr=WSD(0.02, decay='10 steps')", "budget=30 steps"]
    (child,) = rg.branch(trunk, [20], "10 steps")
    assert regime_with(trunk.regime, edits) == child.regime
    forked = rg.fork(trunk, 20, {"optimizer.lr": "WSD(0.02, decay='10 steps')", "budget": "30 steps"})
    assert forked.folder == child.folder


def test_folders_of_branches(work, trunk, tmp_path):
    made = rg.branch(trunk, [10, 20], "10%", out=tmp_path / "ends", workload=work)
    assert [child.folder for child in made] == [tmp_path / "ends" / "decay-10", tmp_path / "ends" / "decay-20"]
    before = (trunk.folder / "records.jsonl").read_bytes()
    again = rg.branch(trunk.folder, [10, 20], "10%", out=tmp_path / "ends", workload=work)
    assert [child.records for child in again] == [child.records for child in made]
    assert (trunk.folder / "records.jsonl").read_bytes() == before


def test_of_several_phases_the_last_is_branched(work, tmp_path):
    phases = [rg.Phase("a", budget="10 steps"), rg.Phase("b", budget="30 steps")]
    declared = rg.Regime(phases=phases, optimizer=rg.SGD(lr=rg.Constant(0.1)), batch_size=8)
    made = rg.run(work, declared, out=tmp_path / "r")
    (child,) = rg.branch(made, 30, "10 steps")
    assert [str(phase.budget) for phase in child.regime.phases] == ["10 steps", "30 steps"]
    assert rates(child)[30:] == pytest.approx([0.1 * k / 10 for k in range(10, 0, -1)], rel=1e-12)
    with pytest.raises(rg.DeclarationError, match="at: got 5, which is in phase 'a'; allowed: steps of the last, 'b'"):
        rg.branch(made, 5, "10 steps")


@pytest.mark.parametrize(
    ("at", "decay", "more", "said"),
    [
        ([10, 41], "5 steps", {}, "at: got 41; allowed: 0 to 40"),
        (10.5, "5 steps", {}, "at: got 10.5; allowed: a step, an integer from 0 on"),
        (
            [0],
            "20%",
            {},
            "at: got 0, of which a decay of '20%' would be nothing; allowed: a later step, or a decay that is an",
        ),
        (True, "5 steps", {}, "at: got True; allowed: a step"),
        (20, "5", {}, "decay: got '5', an amount without a unit"),
        (20, "0 steps", {}, "decay: got '0 steps'; allowed: more than nothing, and less than 100%"),
        (20, "100%", {}, "decay: got '100%'; allowed: more than nothing, and less than 100%"),
        (20, "1e9 flops", {}, "decay: got '1000000000 flops' where the budget is '40 steps'"),
        (20, "5 steps", {"shape": "inverse"}, "decay_shape: got 'inverse' from 0.02 to 0; allowed: both above 0"),
        (20, "5 steps", {"shape": "round"}, "decay_shape: got 'round'"),
    ],
)
def test_refused_with_a_sentence(trunk, tmp_path, at, decay, more, said):
    with pytest.raises(rg.DeclarationError, match=said):
        rg.branch(trunk, at, decay, **more)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["trunk"]


def test_at_the_beginning_of_a_warm_up_a_later_step_is_meant(work, tmp_path):
    made = rg.run(work, regime(rg.Constant(0.02, warmup="8 steps")), seed=3, out=tmp_path / "r")
    with pytest.raises(rg.DeclarationError, match=r"is 0 at step 0 and would .* allowed: a later step \(at\)"):
        rg.branch(made, 0, "8 steps")


def test_where_the_rate_is_zero_or_a_controllers_own_no_branch_is_made(work, tmp_path):
    ended = rg.run(work, regime(rg.Linear(0.02)), out=tmp_path / "ended")
    with pytest.raises(rg.DeclarationError, match="at: optimizer.lr is 0 at step 40 .* allowed: an earlier step"):
        rg.branch(ended, 40, "5 steps")
    closed = rg.run(work, regime(rg.RangeTest(0.01, 0.5, budget="4 steps")), out=tmp_path / "closed")
    with pytest.raises(rg.DeclarationError, match="a rate is RangeTest.*, which nothing but itself brings down"):
        rg.branch(closed, 20, "5 steps")
