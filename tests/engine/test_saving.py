"""Checkpoints are written while the run goes on: of the moment of the call, one at a time, and no failure is lost."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import filelock
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine import checkpoint, saving, sessions, trees
from regimes.engine import folder as folder_module
from regimes.engine.api import Session
from regimes.engine.folder import Folder
from regimes.engine.records import RecordWriter
from regimes.engine.run import Run
from regimes.engine.saving import Saver
from regimes.engine.together import Together
from regimes.testing.resume import through_bytes

BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-2)), batch_size=8, budget="40 steps", average=rg.EMA(0.9))
REGIMES = {
    "plain": BASE,
    "feedback and lag": BASE.but(
        optimizer=rg.SAM(rg.SGD(lr=0.05, momentum=0.9)), batch_size=rg.Linear(6, 12), sampler=rg.LossWeighted(), lag=2
    ),
    "torch's own rule": BASE.but(optimizer=rg.Torch("RMSprop", lr=0.01, momentum=0.9)),
    "in a trial": BASE.but(optimizer=rg.SGD(lr=rg.RangeTest(1e-5, 1e-2, "30 steps"))),
    "phases": rg.Regime(
        [rg.Phase("a", budget="9 steps"), rg.Phase("b", budget="31 steps", carry=["model", "optimizer", "cursor"])],
        optimizer=rg.AdamW(lr=1e-2), batch_size=8,
    ),
}  # fmt: skip


class Held:
    """Holds up the thread that writes, until it is let go."""

    def __init__(self):
        self.reached, self.released = threading.Event(), threading.Event()

    def __call__(self, *ignored):
        self.reached.set()
        assert self.released.wait(60)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.released.set()


def written(folder):
    place = folder.checkpoints
    return [checkpoint.read(place / name) for name in checkpoint.names(place)]


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGIMES)
def test_training_goes_on_in_place_and_the_state_of_the_call_is_written(work, tmp_path, name):
    run, folder = Run(work, REGIMES[name], seed=3), Folder(tmp_path)
    for steps in (7, 4):  # the second one is copied into the memory of the first
        for _ in range(steps):
            run.step()
        assert (run.frame.trial is not None) == (name == "in a trial")
        with Held() as held:
            expected = through_bytes(run.tree())
            folder.save(run, 11, held)
            assert held.reached.wait(60)
            for _ in range(6):
                run.step()
            assert trees.differences(expected, run.tree()) != []
        folder.saved()
        found = written(folder)[0]
        assert trees.differences(expected, found["run"]) == []
        assert found["records_bytes"] == 11


def test_numbers_dicts_and_lists_are_taken_by_value(tmp_path):
    state = {"knobs": {"rate": 0.1}, "seen": [1, [2]], "weights": torch.arange(3.0), "0-d": torch.tensor(5)}
    expected, saver, found = through_bytes(state), Saver(), []
    with Held() as held:
        saver.save(state, lambda *parts: (held(), found.append(trees.restore(*parts))))
        state["knobs"]["rate"] = 9.0
        state["seen"][1].append(3)
        state["seen"].append(4)
        state["weights"].mul_(-1)
        state["0-d"].add_(1)
    saver.wait()
    assert trees.differences(found[0], expected) == []


def test_layouts_tied_and_shared_tensors_and_views_of_one_memory_come_back(tmp_path):
    tied, rows = torch.randn(4, 4, dtype=torch.bfloat16), torch.randn(2, 6)
    state = {
        "one": tied, "other": {"tied": tied}, "rows": [rows[0], rows[1], rows[:, :3]], "cache:row": rows,
        "column-major": torch.linalg.qr(torch.randn(5, 3)).Q.T, "none": torch.zeros(0, 3), "mask": torch.tensor([True]),
        "trained": nn.Parameter(torch.ones(2)), "negative": torch.complex(rows[0], rows[1]).conj().imag,
    }  # fmt: skip
    saver, names = Saver(), []
    saver.save(state, lambda *parts: names.extend(parts[1]) or checkpoint.store(tmp_path, "a", *parts))
    saver.wait()
    found = checkpoint.read(tmp_path / "a")
    assert trees.differences(state, found) == []
    assert "cache:row" not in found
    assert not any("cache" in name for name in names)
    assert ("one" in names, "other.tied" in names) == (True, False)
    assert found["one"] is found["other"]["tied"]
    assert found["column-major"].stride() == state["column-major"].stride()


def test_memory_of_the_copy_is_kept_where_it_fits():
    saver, places, large = Saver(), [], torch.ones(saving._LARGE)

    def write(plain, tensors):
        places.append({name: (t.data_ptr(), t.clone()) for name, t in tensors.items()})

    saver.reserve({"weights": large, "batch": torch.ones(4)})
    saver.wait()
    reserved = saver._kept["weights"].data_ptr()
    for size, value in ((4, 1.0), (4, 2.0), (6, 3.0)):
        state = {"weights": large.mul_(value), "batch": torch.full((size,), value)}
        saver.save(state, write)
        saver.wait()
    first, second, third = places
    assert reserved == first["weights"][0] == second["weights"][0] == third["weights"][0]
    assert first["batch"][0] == second["batch"][0]
    assert (third["weights"][1][0], third["batch"][1].tolist()) == (6.0, [3.0] * 6)


def test_memory_of_the_copy_is_returned_with_the_folder(work, tmp_path):
    session = Session.at(work, BASE, 0, lambda _: tmp_path / "r", checkpoint="25%")
    for record in session.records():
        assert bool(session.folder._saver._kept) == (record.at.step >= 10)
    assert session.folder._saver._kept == {}


def test_a_run_of_a_stack_is_saved_as_it_stands_without_its_caches(work, tmp_path):
    work.model = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    runs = [Run(work, BASE.but(peak=rate, average=None), seed) for seed, rate in enumerate((1e-2, 3e-3, 1e-3))]
    together = Together(runs)
    list(together.steps(5))
    assert len(together.stacks) == 1
    folder = Folder(tmp_path)
    with Held() as held:
        expected = through_bytes(runs[1].tree())
        folder.save(runs[1], 0, held)
        assert not any("cache:" in name for name in folder._saver._kept)
        list(together.steps(5))
    folder.saved()
    assert trees.differences(expected, written(folder)[0]["run"]) == []


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_the_next_checkpoint_waits_and_old_ones_go_when_the_new_one_is_there(work, tmp_path, monkeypatch):
    run, folder, seen, prune = Run(work, BASE), Folder(tmp_path), [], checkpoint.prune

    def pruned(place, keep):
        seen.append(checkpoint.names(place))
        prune(place, keep)

    monkeypatch.setattr(checkpoint, "prune", pruned)
    with Held() as held:
        run.step()
        folder.save(run, 0, held)
        run.step()
        second = threading.Thread(target=folder.save, args=(run, 0))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        assert checkpoint.names(folder.checkpoints) == []
    second.join(60)
    run.step()
    folder.save(run, 0)
    folder.saved()
    one, two, three = (f"step-{n:010d}" for n in (1, 2, 3))
    assert seen == [[one], [two, one], [three, two, one]]
    assert checkpoint.names(folder.checkpoints) == [three, two]


def test_records_are_on_disk_before_the_checkpoint_can_be_seen(work, tmp_path, monkeypatch):
    synced, sync = [], RecordWriter.sync

    def noted(self):
        synced.append(checkpoint.names(tmp_path / "r/checkpoints"))
        assert threading.current_thread() is not threading.main_thread()
        sync(self)

    monkeypatch.setattr(RecordWriter, "sync", noted)
    rg.run(work, BASE, out=tmp_path / "r", checkpoint="25%")
    assert [names[:1] for names in synced] == [[], *([f"step-{n:010d}"] for n in (10, 20, 30))]


# -- failures ----------------------------------------------------------------------------------------------------------


def full(path):
    raise OSError(28, "No space left on device")


SAID = r"at step 10 could not be written \(No space left on device\); the last whole one is none; .*regimes resume"


def until(steps, ending):
    def train(work, folder):
        stream = rg.stream(work, BASE, out=folder, checkpoint="10 steps")
        for _ in range(steps):
            next(stream)
        ending(stream)

    return train


def terminated(stream):
    os.kill(os.getpid(), signal.SIGTERM)
    next(stream)


def thrown(stream):
    stream.throw(ValueError("somebody's own"))


ENDINGS = {
    "the next checkpoint": until(20, next),
    "a stop": until(12, terminated),
    "the end": lambda work, folder: rg.run(work, BASE.but(budget="12 steps"), out=folder, checkpoint="10 steps"),
    "somebody who looks no further": until(12, lambda stream: stream.close()),
    "an error in the loop": until(12, thrown),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_checkpoint_that_cannot_be_written_is_said_at_the_latest_by(work, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(rg.ResumeError, match=SAID):
        ENDINGS[ending](work, tmp_path / "r")
    assert not (tmp_path / "r/result.json").exists()
    Folder(tmp_path / "r").lock()  # given back
    assert not list(tmp_path.rglob(".part-*"))
    monkeypatch.undo()
    last = 12 if ending == "the end" else 40
    assert rg.run(work, BASE.but(budget=f"{last} steps"), out=tmp_path / "r").steps == last


def test_records_that_cannot_be_forced_to_disk_are_said_too(work, tmp_path, monkeypatch):
    monkeypatch.setattr(RecordWriter, "sync", full)
    with pytest.raises(rg.ResumeError, match=SAID):
        rg.run(work, BASE, out=tmp_path / "r", checkpoint="10 steps")
    assert checkpoint.names(tmp_path / "r/checkpoints") == []


def test_what_is_no_refusal_of_the_disk_is_raised_as_it_is(work, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "prune", lambda folder, keep: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rg.run(work, BASE, out=tmp_path / "r", checkpoint="10 steps")


def test_of_several_runs_only_the_one_whose_disk_is_full_ends(work, tmp_path, monkeypatch):
    def some(path):
        if "/1/" in str(path):
            full(path)

    places = [tmp_path / str(seed) for seed in range(3)]
    given = [Session.at(work, BASE, n, lambda _, to=to: to, checkpoint="10 steps") for n, to in enumerate(places)]
    monkeypatch.setattr(checkpoint, "sync", some)
    raised = {each.session.run.seed: each.raised for each in sessions.train(given) if isinstance(each, sessions.Ended)}
    assert (raised[0], raised[2]) == (None, None)
    assert isinstance(raised[1], rg.ResumeError)
    assert "at step 10 could not be written" in str(raised[1])


def test_nor_is_it_lost_when_nobody_asks_for_more(work, tmp_path, monkeypatch):
    given = [Session.at(work, BASE, 0, lambda _: tmp_path / "r", checkpoint="10 steps")]
    monkeypatch.setattr(sessions, "OFTEN", -1.0)  # a word after every round
    monkeypatch.setattr(checkpoint, "sync", full)
    going = sessions.train(given)
    while given[0].run.frame.step < 12:
        next(going)
    with pytest.raises(rg.ResumeError, match=SAID):
        going.close()


# -- what is said and given back ---------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """A disk on which everything takes its time."""
    sync = checkpoint.sync
    waiting = threading.Event()

    def slowly(path):
        waiting.wait(0.05)
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", slowly)


@pytest.mark.usefixtures("slow")
def test_a_stop_is_said_when_the_checkpoint_is_on_disk(work, tmp_path):
    with pytest.raises(rg.Interrupted, match="stopped at step 13; continue with: regimes resume"):
        until(13, terminated)(work, tmp_path / "r")
    assert checkpoint.names(tmp_path / "r/checkpoints")[0] == "step-0000000013"


@pytest.mark.usefixtures("slow")
def test_a_session_is_stopped_when_the_checkpoint_is_on_disk(work, tmp_path):
    session = Session.at(work, BASE, 0, lambda _: tmp_path / "r", checkpoint="10 steps")
    with session.opened():
        for _ in range(13):
            session.note(session.run.step())
            session.settle()
        session.stop_code = 143
        with pytest.raises(rg.Interrupted):
            session.settle()
        assert checkpoint.names(tmp_path / "r/checkpoints")[0] == "step-0000000013"


def test_a_stop_whose_checkpoint_fails_is_no_stop(work, tmp_path, monkeypatch):
    sync = checkpoint.sync
    monkeypatch.setattr(checkpoint, "sync", lambda path: full(path) if "step-0000000013" in str(path) else sync(path))
    with pytest.raises(rg.ResumeError, match="at step 13 .* the last whole one is step-0000000010"):
        until(13, terminated)(work, tmp_path / "r")


@pytest.mark.usefixtures("slow")
def test_the_result_is_written_after_the_last_checkpoint(work, tmp_path, monkeypatch):
    seen, write = [], folder_module.write_json

    def noted(path, content):
        seen.append((path.name, checkpoint.names(tmp_path / "r/checkpoints")[:1]))
        write(path, content)

    monkeypatch.setattr(folder_module, "write_json", noted)
    rg.run(work, BASE, out=tmp_path / "r")
    assert seen == [("run.json", []), ("result.json", ["step-0000000040"])]


def test_the_folder_is_ours_as_long_as_it_is_written_to(work, tmp_path, monkeypatch):
    taken, sync = [], checkpoint.sync

    def asked(path):
        try:
            with filelock.FileLock(tmp_path / "r/.lock", timeout=0):
                taken.append(path)
        except filelock.Timeout:
            pass
        threading.Event().wait(0.02)
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", asked)
    until(12, lambda stream: stream.close())(work, tmp_path / "r")
    assert taken == []
    assert checkpoint.names(tmp_path / "r/checkpoints") == ["step-0000000010"]


def test_somebody_who_interrupts_the_waiting_is_heard_when_it_is_written(tmp_path):
    saver, done, asked, pause = Saver(), [], threading.Event(), threading.Event()

    def write(plain, tensors):
        asked.wait(60)
        for _ in range(2):  # somebody insists
            pause.wait(0.1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        pause.wait(0.1)
        done.append(plain)

    def wait():
        asked.set()
        saver.wait()

    saver.save({"step": 3}, write)
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert done == [{"step": 3}]


# -- the thread --------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, threading, torch, regimes as rg
from regimes.engine.folder import Folder
from regimes.engine.run import Run
torch.set_num_threads(1)
x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)); y = (x[:, 0] > 0).long()
work = rg.Workload(model=lambda: torch.nn.Linear(6, 2), train=(x, y), loss=torch.nn.CrossEntropyLoss())
regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="40 steps")
out = sys.argv[1]
def writers():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("checkpoints")]
"""
CRASH = """
kept = rg.stream(work, regime, out=out, checkpoint="10 steps")
for record in kept:
    if record.at.step == 12:
        assert len(writers()) == 1
        raise RuntimeError("somebody's own")
"""
NEVER = """
rg.run(work, regime)
assert writers() == [], writers()
steps = rg.stream(work, regime, out=out, checkpoint="30 steps")
for _ in range(5):
    next(steps)
assert writers() == [], writers()
"""
FORK = """
run = Run(work, regime)
run.step()
folder = Folder(out)
folder.save(run, 0)
folder.saved()
child = os.fork()
if not child:
    run.step()
    folder.save(run, 0)
    folder.saved()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert len(writers()) == 1
"""


def script(text, out):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT + text), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_crash_ends_the_interpreter_and_leaves_the_last_checkpoint(tmp_path):
    found = script(CRASH, tmp_path / "r")
    assert found.returncode == 1
    assert "RuntimeError: somebody's own" in found.stderr
    assert checkpoint.names(tmp_path / "r/checkpoints") == ["step-0000000010"]


def test_a_small_run_that_has_not_checkpointed_has_no_thread(tmp_path):
    found = script(NEVER, tmp_path / "r")
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_writes_with_a_thread_of_its_own(tmp_path):
    found = script(FORK, tmp_path / "r")
    assert found.returncode == 0, found.stderr
    assert checkpoint.names(tmp_path / "r/checkpoints") == ["step-0000000002", "step-0000000001"]


def test_a_checkpoint_that_is_there_is_not_written_again(work, tmp_path):
    rg.run(work, BASE, out=tmp_path / "r")
    state = tmp_path / "r/checkpoints/step-0000000040/state.json"
    stamp = state.stat().st_mtime_ns
    (tmp_path / "r/result.json").unlink()  # as where it was killed before its result
    rg.run(work, BASE, out=tmp_path / "r")
    assert state.stat().st_mtime_ns == stamp
    assert json.loads((tmp_path / "r/result.json").read_text())["step"] == 40
