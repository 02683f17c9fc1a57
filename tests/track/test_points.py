"""Records as points: names, positions, numbers that are not finite."""

import json

import regimes as rg
from regimes.track.about import rates
from regimes.track.points import Point, values
from regimes.track.tail import Tail

ROWS = [
    {"step": 0, "phase": "main", "samples": 0, "tokens": 0, "knobs": {"optimizer.lr": 0.1}, "loss": 2.0},
    {"step": 7, "phase": "main", "samples": 9, "tokens": 9, "knobs": {}, "loss": 0.5, "trial": "optimizer"},
    {"step": 1, "phase": "main", "samples": 4, "tokens": 40, "knobs": {"optimizer.lr": 0.2}, "skipped": "why"},
    {"step": 2, "phase": "main", "samples": 12, "tokens": 70, "knobs": {}, "loss": "nan", "micro": [1], "ok": True},
]


def written(folder, rows):
    with (folder / "records.jsonl").open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def test_a_point_stands_where_its_step_ends_and_trials_are_none(tmp_path):
    ended = []
    tail = Tail(tmp_path, "tokens", {}, lambda: bool(ended))
    batches = tail.batches()
    written(tmp_path, ROWS[:3])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"step": 2, "pha')  # it is being written
    assert next(batches) == [Point(40, {"lr/all": 0.1, "train/loss": 2.0})]
    text = (tmp_path / "records.jsonl").read_text().rpartition("\n")[0] + "\n"
    (tmp_path / "records.jsonl").write_text(text)
    written(tmp_path, ROWS[3:])
    ended.append(1)
    assert next(batches) == [Point(70, {"lr/all": 0.2, "train/skipped": 1.0})]
    assert next(batches, None) is None
    assert tail.end() is None  # the last point is for who knows the end
    (tmp_path / "result.json").write_text('{"tokens": 90, "metrics": {"test/loss": 1.5}}')
    last = tail.end()
    assert (last.at, list(last.values), last.values["test/loss"]) == (90, ["train/loss", "test/loss"], 1.5)
    assert last.values["train/loss"] != last.values["train/loss"]


def test_rates_that_do_not_vary_have_curves_too():
    groups = rg.groups.no_decay(rg.AdamW(lr=rg.Linear(1e-2), weight_decay=0.1))
    regime = rg.Regime(
        [
            rg.Phase("warm", optimizer=rg.SGD(lr=0.3), budget="50%"),
            rg.Phase("main", optimizer=groups, budget="50%"),
        ],
        batch_size=4, budget="20 steps",
    )  # fmt: skip
    constant = rates(regime)
    assert constant == {"warm": {"lr/all": 0.3}, "main": {}}
    row = {"step": 0, "phase": "warm", "samples": 0, "tokens": 0, "knobs": {}, "loss": 1.0}
    assert values(row, constant) == {"lr/all": 0.3, "train/loss": 1.0}
    knobs = {"optimizer.groups.0.rule.lr": 0.1, "optimizer.groups.1.rule.lr": 0.2}
    assert set(values(row | {"phase": "main", "knobs": knobs}, constant)) == {"lr/group0", "lr/group1", "train/loss"}
