"""Each tracker with its real client, its real server where it has one; and a study read back from each."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import regimes as rg
from regimes.study.foreign.rows import read

NEEDED = {"tensorboard": "track", "mlflow": "trackers", "wandb": "trackers", "trackio": "trackers"}
STORES = {"tensorboard": "tensorboard", "mlflow": "mlflow.db", "wandb": "wandb", "trackio": "trackio"}


def needs(name):
    return pytest.importorskip(name, reason=f"extra '{NEEDED[name]}' is not installed")


@pytest.fixture
def quiet(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_DIR", "TRACKIO_PROJECT", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


@contextlib.contextmanager
def served(port, *command, cwd):
    """A server in a session of its own, until it is killed or the block ends."""
    with (cwd / "server.log").open("a") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield process
    finally:
        kill(process)


def kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def asked(url, **query):
    text = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    for _ in range(100):
        with contextlib.suppress(OSError), urllib.request.urlopen(text, timeout=10) as answer:
            return answer.read().decode()
        time.sleep(0.2)
    raise AssertionError(f"{text} does not answer")


def bits(folder):
    return [(Path(folder) / name).read_bytes() for name in ("records.jsonl", "result.json", "final/model.safetensors")]


@pytest.mark.parametrize("name", STORES)
def test_a_study_read_back_from_its_tracker_has_the_same_verdict(quiet, regime, work, tmp_path, name):
    needs(name)
    arms = {"a": regime.but({"budget": "8 steps"}), "b": regime.but({"budget": "8 steps", "lr.peak": 0.2})}
    study = rg.compare(
        work, arms, margin=0.01, seeds=6, name="s", out=tmp_path / "s", track=name, validate="50%", progress=False,
        workload_spec="quadratic",
    )  # fmt: skip
    back = rg.verdict(
        tmp_path / "s" / STORES[name], arm="arm", seed="seed", metric="val/loss", margin=0.01, baseline="a"
    )
    ours, theirs = study.to_dict(), back.to_dict()
    assert (ours["sentence"], ours["seeds"]) == (theirs["sentence"], theirs["seeds"])
    for mine, its in zip(ours["arms"], theirs["arms"]):
        assert mine["name"] == its["name"]
        if name == "tensorboard":  # which holds 32 bits
            assert its["values"] == pytest.approx(mine["values"], rel=1e-6)
            assert (mine["comparison"] or {}).get("verdict") == (its["comparison"] or {}).get("verdict")
        else:
            assert (mine["values"], mine["comparison"]) == (its["values"], its["comparison"])
        assert len(its["curves"]) == 6
    rows = read(tmp_path / "s" / STORES[name]).rows
    assert {float(row["optimizer.lr.peak"]) for row in rows if row["arm"] == "b"} == {0.2}  # of mlflow a text
    assert [len([r for r in rows if r["arm"] == "a" and int(r["seed"]) == seed]) for seed in range(6)] == [8] * 6


@pytest.mark.parametrize("name", STORES)
def test_stopped_and_resumed_the_tracker_holds_each_point_once(quiet, regime, work, tmp_path, name):
    needs(name)
    for place, _ in enumerate(rg.stream(work, regime, out=tmp_path / "a", track=name, checkpoint="5 steps")):
        if place == 22:
            break
    begun = read(tmp_path / "a")
    assert sorted(row["step"] for row in begun.rows) == list(range(1, 23))
    assert bool(begun.unfinished) == (name != "trackio")  # which does not say
    rg.run(work, regime, out=tmp_path / "a", track=name, checkpoint="5 steps")
    found = read(tmp_path / "a")
    assert sorted(row["step"] for row in found.rows) == list(range(1, 41))
    assert found.unfinished == {}
    records = [json.loads(line)["loss"] for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    assert [row["train/loss"] for row in sorted(found.rows, key=lambda row: row["step"])] == records
    if name == "mlflow":
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/a/mlflow.db")
        (run,) = client.search_runs(["1"])
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 40
    if name == "trackio":
        from regimes.study.foreign.sqlite import rows

        ((count,),) = rows(next((tmp_path / "a" / "trackio").glob("*.db")), "SELECT COUNT(*) FROM metrics")
        assert count == 40


def test_a_killed_server_is_a_note_and_the_run_ends_in_the_same_bits(quiet, regime, work, tmp_path, monkeypatch):
    needs("mlflow")
    number = port()
    command = (sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(number), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{tmp_path}/server.db",
               "--artifacts-destination", str(tmp_path / "art"))  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{number}")
    plain = rg.run(work, regime, out=tmp_path / "plain")
    with served(number, *command, cwd=tmp_path) as server:
        asked(f"http://127.0.0.1:{number}/health")
        count = 0

        def step(record):
            nonlocal count
            count += 1
            if count == 20:
                until = time.monotonic() + 90
                while time.monotonic() < until and not held(number):
                    time.sleep(0.2)
                assert held(number), (tmp_path / "a" / "tracked-mlflow.log").read_text()
                kill(server)

        result = watched(work, regime, tmp_path / "a", step)
    assert bits(tmp_path / "a") == bits(tmp_path / "plain")
    assert [note.split(" (")[0] for note in result.notes] == ["mlflow does not hold all points"]
    assert plain.notes == []
    with served(number, *command, cwd=tmp_path):
        asked(f"http://127.0.0.1:{number}/health")
        assert rg.run(work, regime, out=tmp_path / "a", track="mlflow").notes == []
    found = read(tmp_path / "server.db")
    assert [row["step"] for row in found.rows] == list(range(1, 41))
    assert found.unfinished == {}


def held(number):
    import mlflow

    client = mlflow.MlflowClient(f"http://127.0.0.1:{number}")
    return any(run.data.metrics for run in client.search_runs([e.experiment_id for e in client.search_experiments()]))


def watched(work, regime, out, step):
    """`regimes.run`, with a look at every record; slow enough for a tracker to follow."""
    from regimes.track import tracking

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "OFTEN", 0.0)
        for record in rg.stream(work, regime, out=out, track="mlflow"):
            step(record)
            time.sleep(0.02)
    told = json.loads((out / "tracked.json").read_text())["trackers"]

    class Result:
        notes = [one["error"] for one in told if one["error"]]

    return Result


def test_tensorboards_own_server_shows_the_curves(quiet, regime, work, tmp_path):
    needs("tensorboard")
    rg.run(work, regime, out=tmp_path / "a", track="tensorboard@samples")
    number = port()
    command = (
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path),
        "--port",
        str(number),
        "--host",
        "127.0.0.1",
    )
    with served(number, *command, cwd=tmp_path):
        for _ in range(300):  # it reads its folder anew every five seconds
            tags = json.loads(asked(f"http://127.0.0.1:{number}/data/plugin/scalars/tags"))
            if tags:
                break
            time.sleep(0.2)
        assert set(tags["a/tensorboard/a"]) == {"train/loss", "val/loss", "lr/all"}
        url = f"http://127.0.0.1:{number}/data/plugin/scalars/scalars"
        curve = json.loads(asked(url, run="a/tensorboard/a", tag="train/loss"))
    records = [json.loads(line) for line in (tmp_path / "a" / "records.jsonl").read_text().splitlines()]
    assert [at for _, at, _ in curve] == [4 * (row["step"] + 1) for row in records]
    assert [value for _, _, value in curve] == pytest.approx([row["loss"] for row in records], rel=1e-6)


def test_trackios_own_server_shows_the_curves(quiet, regime, work, tmp_path):
    needs("trackio")
    rg.run(work, regime, out=tmp_path / "a", track="trackio")
    code = "import trackio; print(trackio.show(project='regimes', open_browser=False, block_thread=False), flush=True)\n" \
           "import time; time.sleep(300)"  # fmt: skip
    number = port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path / "a" / "trackio"))
        patch.setenv("GRADIO_SERVER_PORT", str(number))
        with served(number, sys.executable, "-c", code, cwd=tmp_path):
            page = asked(f"http://127.0.0.1:{number}/")
    assert "trackio" in page.lower()
