"""Listings of many runs: what they open, and that the index never tells what the folders do not."""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter

import pytest
import torch
from filelock import FileLock
from torch import nn

import regimes as rg
from regimes.engine import index, standing
from regimes.study import folders

#: What is opened, and which folders are looked into, while somebody watches; a hook stays for the whole process.
_SEEN: list[list[tuple[str, str]]] = []


def _hook(event, given):
    if _SEEN and event in ("open", "os.scandir", "os.listdir") and isinstance(given[0], str | bytes | os.PathLike):
        _SEEN[-1].append((event, os.fsdecode(given[0])))


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched():
    """Inside, every file that is opened and every folder that is looked into is noted."""
    _SEEN.append([])
    try:
        yield _SEEN[-1]
    finally:
        _SEEN.pop()


def opened(seen):
    """How often files of each name were opened."""
    return Counter(os.path.basename(path) for event, path in seen if event == "open")


def write_run(folder, seed=0, steps=20, finished=True, loss=0.5, skipped=0, key="k"):
    """A run's folder, as the engine leaves it, without weights."""
    (folder / "checkpoints" / "step-0000000010").mkdir(parents=True)
    (folder / "final").mkdir()
    (folder / ".lock").touch()
    declared = {"format": 1, "key": key, "regime": "Regime()", "identity": {"seed": seed}, "workload": "tiny",
                "options": {"give_up": 3}, "created": f"2026-11-22T00:00:{seed % 60:02d}+0000"}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(declared))
    rows = [{"step": step, "loss": loss} for step in range(steps)]
    rows += [{"step": steps + place, "skipped": "loss"} for place in range(skipped)]
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "times.jsonl").write_text("")
    if finished:
        (folder / "result.json").write_text(json.dumps({"metrics": {"val/loss": loss}, "step": steps}))
    return folder


@pytest.fixture
def store(tmp_path):
    """Twelve runs: nine finished, one stopped, one that gave up, one more below a folder of its own."""
    root = tmp_path / "runs"
    for seed in range(9):
        write_run(root / f"run-{seed}", seed=seed)
    write_run(root / "stopped", seed=20, finished=False)
    write_run(root / "diverged", seed=21, finished=False, skipped=2)
    write_run(root / "study" / "runs" / "abc", seed=22, key="abc")
    return root


@pytest.fixture
def settled(monkeypatch):
    """What has just been written counts as old: nobody waits in a test."""
    monkeypatch.setattr(index, "_FRESH", -1.0)


def told(root):
    return {row["path"].removeprefix(f"{root}/"): row for row in folders.rows(root)}


def without_index(root):
    """The rows as the folders alone tell them, from a copy that has no index."""
    copy = root.parent / "copy"
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("index.sqlite*"))
    found = told(copy)
    shutil.rmtree(copy)
    return {name: row | {"path": f"{root}/{name}", "study": None} for name, row in found.items()}


def agrees(root):
    assert {name: row | {"study": None} for name, row in told(root).items()} == without_index(root)


# -- what is opened ------------------------------------------------------------------------------------------------


def test_a_listing_opens_two_small_files_a_run_and_no_records_of_what_is_finished(store, settled):
    with watched() as seen:
        assert len(folders.rows(store)) == 12
    found = opened(seen)
    assert (found["run.json"], found["result.json"]) == (12, 12)  # two of them in vain
    assert found["records.jsonl"] == 2  # of those that are not finished, their end
    assert not found.keys() - {"run.json", "result.json", "records.jsonl", ".lock"}
    assert not [path for event, path in seen if event == "os.scandir" and path.endswith(("checkpoints", "final"))]


def test_a_second_listing_opens_nothing_of_any_run(store, settled):
    first = folders.rows(store)
    with watched() as seen:
        assert folders.rows(store) == first
    assert not opened(seen).keys() - {".lock"}
    assert {path for _, path in seen if path.endswith(".lock")} == {f"{store}/stopped/.lock", f"{store}/diverged/.lock"}
    assert sum(event == "os.scandir" for event, _ in seen) == 15  # a look into every folder, and none into its parts


def test_what_is_opened_grows_with_the_runs_that_are_new(store, settled):
    folders.rows(store)
    for seed in range(30, 34):
        write_run(store / f"run-{seed}", seed=seed)
    with watched() as seen:
        assert len(folders.rows(store)) == 16
    assert opened(seen)["run.json"] == 4


def test_of_long_records_only_the_end_is_read(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", steps=50_000, finished=False)
    read = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: read.append(text) or loads(text))
    assert standing.facts_of(run)["step"] == 50_000
    assert len(read) == 2  # run.json, and one record


def test_a_run_that_has_ended_is_in_the_index(tmp_path):
    x = torch.linspace(-1, 1, 40)[:, None]
    work = rg.Workload(model=lambda: nn.Linear(1, 2), train=(x, (x[:, 0] > 0).long()), loss=nn.CrossEntropyLoss())
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="5 steps")
    rg.run(work, regime, out=tmp_path / "runs" / "a")
    stream = rg.stream(work, regime, seed=1, out=tmp_path / "runs" / "b", checkpoint="2 steps")
    [next(stream) for _ in range(3)]
    stream.close()
    with watched() as seen:
        rows = told(tmp_path / "runs")
    assert [(rows[name]["status"], rows[name]["step"]) for name in "ab"] == [("finished", 5), ("stopped", 3)]
    assert not opened(seen).keys() - {".lock"}
    agrees(tmp_path / "runs")


# -- the folders are the truth -------------------------------------------------------------------------------------


def test_rows_are_the_same_with_and_without_an_index(store, settled):
    for _ in range(3):
        agrees(store)
    rows = told(store)
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "finished"} == {
        "stopped": "stopped", "diverged": "diverged",
    }  # fmt: skip
    assert rows["study/runs/abc"]["study"] == str(store / "study")
    assert rows["run-3"]["study"] is None


def test_a_deleted_run_is_gone_and_forgotten(store, settled):
    folders.rows(store)
    shutil.rmtree(store / "run-3")
    assert "run-3" not in told(store)
    with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM runs")}
    assert names == {path.name for path in store.iterdir() if (path / "run.json").exists()}


def test_an_edit_of_the_same_length_and_time_is_seen(store, settled):
    folders.rows(store)
    file = store / "run-3" / "result.json"
    before = file.stat()
    file.write_text(file.read_text().replace("0.5", "0.7"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert told(store)["run-3"]["metrics"] == {"val/loss": 0.7}
    agrees(store)


def test_what_was_changed_a_moment_ago_is_read_again(store):
    """Within one tick of the clock a second edit may leave size and times as they were."""
    folders.rows(store)
    with watched() as seen:
        folders.rows(store)
    assert opened(seen)["run.json"] == 12


def test_copies_moves_and_exchanges_are_seen(store, settled):
    folders.rows(store)
    shutil.copytree(store / "run-1", store / "copy")
    (store / "run-2").rename(store / "moved")
    (store / "run-3").rename(store / "other")
    (store / "run-4").rename(store / "run-3")
    (store / "other").rename(store / "run-4")
    rows = told(store)
    assert "run-2" not in rows
    assert [rows[name]["seed"] for name in ("copy", "run-1", "moved", "run-3", "run-4")] == [1, 1, 2, 4, 3]
    agrees(store)


def test_a_store_that_is_moved_takes_its_index_along(store, settled):
    folders.rows(store)
    moved = store.rename(store.parent / "elsewhere")
    with watched() as seen:
        rows = told(moved)
    assert len(rows) == 12
    assert opened(seen)["run.json"] == 0
    assert rows["run-1"]["path"] == str(moved / "run-1")
    agrees(moved)


def test_a_store_that_is_copied_with_its_index_is_read_again(store, settled):
    folders.rows(store)
    copy = store.parent / "second"
    shutil.copytree(store, copy)
    (copy / "run-1" / "result.json").write_text(json.dumps({"metrics": {"val/loss": 0.1}, "step": 3}))
    assert told(copy)["run-1"]["metrics"] == {"val/loss": 0.1}
    agrees(copy)


def test_a_run_that_is_being_trained_is_told_as_it_stands(store, settled):
    run = store / "stopped"
    folders.rows(store)
    with FileLock(run / ".lock"):
        assert (told(store)["stopped"]["status"], told(store)["stopped"]["step"]) == ("running", 20)
        with (run / "records.jsonl").open("a") as file:
            file.write('{"step": 20, "loss": 1}\n{"step": 21, "lo')
        assert (told(store)["stopped"]["status"], told(store)["stopped"]["step"]) == ("running", 21)
        (run / "checkpoints" / "step-0000000040").mkdir()
        assert told(store)["stopped"]["step"] == 40
    assert told(store)["stopped"]["status"] == "stopped"
    (run / "result.json").write_text(json.dumps({"metrics": {"val/loss": 0.2}, "step": 50}))
    assert (told(store)["stopped"]["status"], told(store)["stopped"]["step"]) == ("finished", 50)
    agrees(store)


def test_a_run_that_ends_between_two_looks_is_finished(store, monkeypatch):
    run = store / "stopped"

    def ends(folder):
        (run / "result.json").write_text(json.dumps({"metrics": {}, "step": 20}))
        return False

    monkeypatch.setattr(standing, "_locked", ends)
    assert standing.facts_of(run)["status"] == "finished"


def test_a_result_that_is_no_json_yet_is_no_result(store, settled):
    folders.rows(store)
    (store / "run-1" / "result.json").write_text('{"metrics": {"val')
    assert told(store)["run-1"]["status"] == "stopped"
    with (store / "run-1" / "records.jsonl").open("a") as file:
        file.write('{"step": 30}\n')
    assert told(store)["run-1"]["step"] == 31
    agrees(store)


def test_runs_inside_a_runs_folder_are_found(store):
    write_run(store / "run-1" / "replays" / "one", seed=40)
    assert "run-1/replays/one" in told(store)


def test_links_are_not_followed_and_a_run_itself_is_told(store, tmp_path):
    os.symlink(store, store / "again")
    assert len(told(store)) == 12
    rows = folders.rows(store / "run-1")
    assert [(row["path"], row["seed"]) for row in rows] == [(str(store / "run-1"), 1)]
    assert not (store / "index.sqlite").exists()


def test_paths_are_those_that_were_asked_for(store, monkeypatch):
    monkeypatch.chdir(store)
    for _ in range(2):
        paths = {row["path"] for row in folders.rows(folders.Path("."))}
        assert {"run-1", os.path.join("study", "runs", "abc")} <= paths
    (row,) = (row for row in folders.rows(folders.Path(".")) if row["seed"] == 22)
    assert row["study"] == "study"


def test_what_is_no_run_of_ours_is_passed_over(store, settled):
    (store / "alien").mkdir()
    (store / "alien" / "run.json").write_text("[1, 2]")
    (store / "odd").mkdir()
    (store / "odd" / "run.json").write_text('{"key": "k", "workload": 1, "regime": 2, "created": 3, "identity": 4}')
    for _ in range(2):
        assert told(store).keys() & {"alien", "odd"} == set()


# -- the index as a file -------------------------------------------------------------------------------------------


def test_an_index_that_is_none_is_passed_over_and_begun_anew(store, settled):
    (store / "index.sqlite").write_bytes(b"no database" * 500)
    agrees(store)
    with watched() as seen:
        assert len(told(store)) == 12
    assert opened(seen)["run.json"] == 0


def test_an_index_of_an_earlier_version_is_begun_anew(store, settled):
    with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE runs (path TEXT PRIMARY KEY, status TEXT)")
        connection.execute("INSERT INTO runs VALUES ('run-1', 'finished')")
        connection.commit()
    agrees(store)
    with watched() as seen:
        assert len(told(store)) == 12
    assert opened(seen)["run.json"] == 0
    assert not list(store.glob("index.sqlite-*"))


def test_a_folder_that_cannot_be_written_is_listed_all_the_same(store, settled, monkeypatch):
    def refused(*given, **options):
        raise sqlite3.OperationalError("attempt to write a readonly database")

    expected = told(store)
    monkeypatch.setattr(sqlite3, "connect", refused)
    assert told(store) == expected


def test_names_that_are_no_text_are_listed(store, settled):
    try:
        write_run(folders.Path(os.fsdecode(os.fsencode(store) + b"/odd-\xff")), seed=50)
    except OSError:
        pytest.skip("this file system takes names of text alone")
    for _ in range(2):
        assert len(folders.rows(store)) == 13


def test_two_processes_write_one_index(tmp_path):
    for number in range(100):
        write_run(tmp_path / f"run-{number}", seed=number)
    code = """
import sys
from pathlib import Path
from regimes.engine import index
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 50):
    index.update(Path(sys.argv[1]) / f"run-{number}")
"""
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path, str(first)]) for first in (0, 50)]
    assert [process.wait() for process in both] == [0, 0]
    with watched() as seen:
        assert sorted(row["seed"] for row in folders.rows(tmp_path)) == list(range(100))
    assert opened(seen)["run.json"] == 0


def test_indexes_are_written_anew(store, settled):
    folders.rows(store)
    with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as connection:
        connection.execute("UPDATE runs SET facts = replace(facts, '0.5', '0.9')")
        connection.commit()
    assert told(store)["run-1"]["metrics"] == {"val/loss": 0.9}  # whoever writes into it by hand is believed
    assert folders.reindex(store) == 12
    agrees(store)
    with contextlib.closing(sqlite3.connect(store / "index.sqlite")) as connection:
        connection.execute(
            "UPDATE runs SET facts = CASE name WHEN 'run-1' THEN 'none' WHEN 'run-2' THEN '7' ELSE '{}' END"
        )
        connection.commit()
    agrees(store)


# -- the end of the records ----------------------------------------------------------------------------------------


def last_by_reading_all(run, give_up):
    """Status and step as every line of the records tells them."""
    rows = []
    for line in (run / "records.jsonl").read_bytes().split(b"\n")[:-1]:
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int) and "trial" not in row:
                rows.append(row)
    tail = rows[-max(give_up - 1, 1) :]
    gave_up = len(tail) >= max(give_up - 1, 1) and all("skipped" in row for row in tail)
    return {"status": "diverged" if gave_up else "stopped", "step": max([10, *(row["step"] + 1 for row in rows[-1:])])}


@pytest.mark.parametrize("block", [7, 64, 1 << 14])
def test_the_end_of_the_records_is_read_backwards_as_it_would_be_forwards(tmp_path, monkeypatch, block):
    monkeypatch.setattr(standing, "_BLOCK", block)
    run, rng = write_run(tmp_path / "run", finished=False), random.Random(block)
    statuses = Counter()
    for _ in range(300):
        lines = []
        for step in range(rng.randrange(12)):
            row = {"step": step} | ({"skipped": "loss"} if rng.random() < 0.7 else {"loss": 0.5})
            lines.append(json.dumps(row | ({"trial": 1} if rng.random() < 0.2 else {})))
            if rng.random() < 0.1:
                lines.append(rng.choice(["", "{broken", '{"no": "step"}', "[1]", '{"step": "one"}']))
        text = "".join(f"{line}\n" for line in lines)
        (run / "records.jsonl").write_text(text[: len(text) - rng.choice([0, 0, 0, 1, 5])] if text else "")
        found = standing._unfinished(run, 3)
        assert found == last_by_reading_all(run, 3)
        statuses[found["status"]] += 1
    assert min(statuses["diverged"], statuses["stopped"]) > 50
