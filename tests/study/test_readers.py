"""What trackers keep, read as rows: written here by their real clients, and judged as a table of the same values."""

import csv
import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner

import regimes as rg
from regimes.cli import group
from regimes.core.errors import DeclarationError
from regimes.study.foreign import trackers
from regimes.study.foreign.rows import read, rows_of

RNG = np.random.default_rng(0)
STEPS = (5, 10)
RUNS = [(opt, seed) for opt in ("sgd", "muon") for seed in range(6)]
CURVES = {
    (opt, seed): {step: float(np.float32(3 - 0.1 * step - 0.1 * (opt == "muon") + 0.02 * RNG.standard_normal())) for step in STEPS}
    for opt, seed in RUNS
}  # fmt: skip
ASKED = {"baseline": "sgd", "arm": "opt", "seed": "seed", "metric": "val/loss", "margin": 0.02}
TABLE = [
    {"opt": opt, "seed": seed, "step": step, "val/loss": value}
    for (opt, seed), course in CURVES.items()
    for step, value in course.items()
]


def told(study):
    """What a study says of each arm, in an order that is not that of folders."""
    facts = study.to_dict()
    arms = sorted((arm["name"], arm["values"], arm["comparison"]) for arm in facts["arms"])
    return facts["sentence"], facts["seeds"], arms


def same(path, **asked):
    study = rg.verdict(path, **(ASKED | asked))
    assert told(study) == told(rg.verdict(TABLE, **ASKED, step="step"))
    return study


# -- names and choices, of any rows -----------------------------------------------------------------------------------


def named():
    return [{"run": f"{row['opt']}-s{row['seed']}", "step": row["step"], "val/loss": row["val/loss"]} for row in TABLE]


def test_arm_and_seed_come_out_of_names():
    same(named(), pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)", step="step")
    extra = [*named(), {"run": "lion-s7", "step": 10, "val/loss": 1.0}]
    facts = rg.verdict(
        extra, **(ASKED | {"seed": None}), pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)", step="step", where={"seed": 3}
    ).to_dict()
    values = [next(value for value in arm["values"] if value is not None) for arm in facts["arms"]]
    assert values == [CURVES["sgd", 3][10], CURVES["muon", 3][10]]
    with pytest.raises(DeclarationError, match="where: no row has"):
        rg.verdict(extra, **ASKED, pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)", step="step", where={"opt": "adam"})


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"(?P<opt>\w+)-s(?P<seed>[1-9])", "pattern: got .*which run 'sgd-s0' does not fit as a whole"),
        (r"(?P<opt>sgd|muon)", "which run 'sgd-s0' does not fit as a whole"),
        (r"(\w+)-s(\d+)", r"allowed: named groups, such as \(\?P<seed>"),
        (r"(?P<step>\w+)-s(?P<seed>\d+)", "allowed: named groups, .*called otherwise than a column"),
        (r"(?P<opt>\w+", "which is no pattern"),
    ],
)
def test_patterns_are_refused_where_they_do_not_fit(pattern, said):
    with pytest.raises(DeclarationError, match=said):
        rg.verdict(named(), **ASKED, step="step", pattern=pattern)
    with pytest.raises(DeclarationError, match="pattern: there is no column 'run'"):
        rg.verdict(TABLE, **ASKED, step="step", pattern=r"(?P<a>\w+)")


def test_the_command_takes_a_pattern_and_a_word_on_unfinished_runs(tmp_path):
    file = tmp_path / "runs.csv"
    with file.open("w") as stream:
        out = csv.DictWriter(stream, ["Name", "State", "val/loss"])
        out.writeheader()
        ends = [{"Name": f"{o}-s{s}", "State": "finished", "val/loss": CURVES[o, s][10]} for o, s in RUNS]
        out.writerows([*ends[:-1], ends[-1] | {"State": "crashed"}])
    words = ["verdict", str(file), "--arm", "opt", "--seed", "seed", "--metric", "val/loss", "--margin", "0.02",
             "--pattern", r"(?P<opt>\w+)-s(?P<seed>\d+)"]  # fmt: skip
    refused = CliRunner().invoke(group, words)
    assert refused.exit_code == 2
    assert "--unfinished: some runs did not end as they should: muon-s5 (wandb calls it crashed); say" in refused.output
    used = CliRunner().invoke(group, [*words, "--unfinished", "used", "--json"])
    facts = json.loads(used.output)
    assert facts["sentence"].split(" in ")[0] == told(rg.verdict(TABLE, **ASKED, step="step"))[0].split(" in ")[0]
    assert (
        "did not end as they should, and are judged at what there is: muon-s5 (wandb calls it crashed)"
        in facts["notes"]
    )
    left = json.loads(
        CliRunner().invoke(group, [*words, "--unfinished", "missing", "--assume", "normal", "--json"]).output
    )
    assert next(arm for arm in left["arms"] if arm["name"] == "muon")["comparison"]["pairs"] == 5
    assert "did not end as they should, and are left out: muon-s5 (wandb calls it crashed)" in left["notes"]
    with pytest.raises(DeclarationError, match="unfinished: got 'diverged'; allowed: 'used' or 'missing'"):
        rg.verdict(TABLE, **ASKED, step="step", unfinished="diverged")


def test_a_chart_that_wandb_exports(tmp_path):
    rows = {step: {"Step": step} for step in STEPS}
    for (opt, seed), course in CURVES.items():
        for step, value in course.items():
            name = f"{opt}-s{seed} - val/loss"
            rows[step] |= {name: value, f"{name}__MIN": value, f"{name}__MAX": value}
    file = tmp_path / "chart.csv"
    with file.open("w") as stream:
        out = csv.DictWriter(stream, list(rows[5]))
        out.writeheader()
        out.writerows(rows.values())
    same(file, pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)")


def test_an_export_of_runs_that_share_a_name_is_refused(tmp_path):
    """The state of one was told of the other: a run that had finished was left out, or a crashed one judged."""
    file = tmp_path / "export.csv"
    file.write_text("Name,State,opt,val/loss\ntrain,finished,sgd,2.0\ntrain,crashed,muon,1.0\nother,finished,sgd,2.0\n")
    with pytest.raises(DeclarationError, match="run 'train' stands in 2 rows, and nobody can say whose state is whose"):
        read(file)
    chart = tmp_path / "chart.csv"
    columns = ["a - loss", "a - loss__MIN", "a - loss__MAX"]
    chart.write_text(",".join(["Step", *columns, *columns]) + "\n5,1,1,1,2,2,2\n")
    with pytest.raises(DeclarationError, match="its first line names column 'a - loss' 2 times"):
        read(chart)


# -- transformers --------------------------------------------------------------------------------------------------


def state(course, steps=10, most=10, **more):
    log = [{"epoch": step / 5, "eval_loss": value, "eval_runtime": 0.1, "step": step} for step, value in course.items()]
    train = [{"epoch": step / 5, "loss": 1.0, "learning_rate": 0.1, "step": step} for step in course]
    return {"global_step": steps, "max_steps": most, "log_history": [*train, *log], "trial_params": None} | more


def folder_of_states(folder):
    for (opt, seed), course in CURVES.items():
        for step in STEPS:  # checkpoints: the one that got furthest counts
            place = folder / f"{opt}-s{seed}" / f"checkpoint-{step}"
            place.mkdir(parents=True)
            until = {at: value for at, value in course.items() if at <= step}
            (place / "trainer_state.json").write_text(json.dumps(state(until, steps=step)))


def test_states_of_a_trainer(tmp_path):
    folder_of_states(tmp_path)
    asked = {"metric": "eval_loss", "pattern": r"(?P<opt>\w+)-s(?P<seed>\d+)"}
    want = [{"eval_loss" if name == "val/loss" else name: value for name, value in row.items()} for row in TABLE]
    want = told(rg.verdict(want, **(ASKED | {"metric": "eval_loss"}), step="step"))
    for path in (tmp_path, tmp_path / "*" / "checkpoint-*" / "trainer_state.json", tmp_path / "*-s*"):
        assert told(rg.verdict(path, **(ASKED | asked))) == want
    file = tmp_path / "muon-s5" / "checkpoint-10" / "trainer_state.json"
    file.write_text(json.dumps(state(CURVES["muon", 5], steps=10, most=20)))
    with pytest.raises(DeclarationError, match=r"muon-s5 \(its state is of step 10 of 20\)"):
        rg.verdict(tmp_path, **(ASKED | asked))
    early = state(CURVES["muon", 5], steps=10, most=20)
    early["log_history"] += [{"train_runtime": 3.0, "step": 10}, {"eval_loss": 0.5, "step": 10}]
    file.write_text(json.dumps(early))
    assert told(rg.verdict(tmp_path, **(ASKED | asked))) == want  # it stopped early, and looked at its best again
    assert {row["eval_loss#2"] for row in read(tmp_path).rows if "eval_loss#2" in row} == {0.5}
    file.write_text("{}")
    with pytest.raises(DeclarationError, match="which is no state of a Trainer"):
        read(tmp_path)
    assert read(tmp_path / "sgd-s0" / "checkpoint-5" / "trainer_state.json").rows[0]["run"] == "sgd-s0"


def put_state(folder, *asked, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps(state(*asked, **more)))


def test_a_checkpoint_left_over_from_another_run_is_left_out_and_told(tmp_path):
    put_state(tmp_path / "a", {50: 2.0, 100: 1.5}, steps=100, most=100)
    put_state(tmp_path / "a" / "checkpoint-100", {50: 2.0, 100: 1.5}, steps=100, most=100)
    put_state(tmp_path / "a" / "checkpoint-500", {50: 2.1, 100: 1.5, 500: 0.5}, steps=500, most=500)
    for path in (tmp_path, tmp_path / "a"):
        found = read(path)
        assert [(row["step"], row["eval_loss"]) for row in found.rows] == [(50, 2.0), (100, 1.5)]
        assert found.notes == (
            "run 'a': checkpoint-500 tells of another run than the folder's own trainer_state.json, which is of step 100, "
            "and is left out",
        )
    put_state(tmp_path / "a" / "checkpoint-400", {60: 2.0, 400: 0.6}, steps=400, most=500)
    assert "checkpoint-400, checkpoint-500 tell of another run" in read(tmp_path).notes[0]
    assert "and are left out" in read(tmp_path).notes[0]


def test_a_checkpoint_that_goes_on_from_the_folders_own_state_counts(tmp_path):
    put_state(tmp_path / "a", {50: float("nan"), 100: 1.5}, steps=100, most=100)
    put_state(tmp_path / "a" / "checkpoint-200", {50: float("nan"), 100: 1.5, 200: 1.0}, steps=200, most=200)
    put_state(tmp_path / "a" / "checkpoint-500", {50: 1.9, 500: 0.5}, steps=500, most=500)
    found = read(tmp_path)
    assert [row["step"] for row in found.rows] == [50, 100, 200]
    assert "checkpoint-500 tells of another run" in found.notes[0]
    (tmp_path / "a" / "checkpoint-500" / "trainer_state.json").unlink()
    assert ([row["step"] for row in read(tmp_path).rows], read(tmp_path).notes) == ([50, 100, 200], ())


def test_a_state_that_transformers_writes(tmp_path):
    transformers = pytest.importorskip("transformers", reason="extra 'trackers' is not installed")
    made = transformers.TrainerState(global_step=10, max_steps=10, trial_params={"lr": 0.1})
    made.log_history = state(CURVES["sgd", 0])["log_history"]
    made.save_to_json(str(tmp_path / "trainer_state.json"))
    found = read(tmp_path / "trainer_state.json")
    assert [(row["step"], row["eval_loss"], row["lr"]) for row in found.rows] == [
        (s, v, 0.1) for s, v in CURVES["sgd", 0].items()
    ]
    assert found.unfinished == {}


# -- tensorboard ---------------------------------------------------------------------------------------------------


def test_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason="extra 'track' is not installed")
    from torch.utils.tensorboard import SummaryWriter

    for (opt, seed), course in CURVES.items():
        with SummaryWriter(tmp_path / f"{opt}-s{seed}") as writer:
            for step, value in course.items():
                writer.add_scalar("val/loss", value, step, new_style=seed % 2 == 0)
    same(tmp_path, pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)")
    same(tmp_path / "*", pattern=r"(?P<opt>\w+)-s(?P<seed>\d+)")
    with SummaryWriter(tmp_path / "muon-s5", purge_step=10) as writer:  # a restart from step 10 on
        writer.add_scalar("val/loss", 1.5, 10)
    course = {row["step"]: row["val/loss"] for row in read(tmp_path).rows if row["run"] == "muon-s5"}
    assert course == {5: CURVES["muon", 5][5], 10: 1.5}
    assert read(tmp_path / "muon-s5").rows[0]["run"] == "muon-s5"


def points_of(folder):
    return {row["step"]: row["val/loss"] for row in read(folder).rows if "val/loss" in row}


def scalars(folder, values, **asked):
    """One event file of scalars; its time is in its name, in seconds."""
    from torch.utils.tensorboard import SummaryWriter

    number = len(list(folder.glob("*tfevents*")))
    with SummaryWriter(folder, filename_suffix=f".{number}", **asked) as writer:
        for (tag, step), value in values.items():
            writer.add_scalar(tag, value, step)
    for file in folder.glob(f"*.{number}"):
        file.rename(folder / f"events.out.tfevents.{number}")


def test_event_files_of_a_restart_are_read_as_tensorboard_does(tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="extra 'track' is not installed"
    )
    scalars(tmp_path, {("val/loss", step): float(step) for step in range(1, 7)})
    scalars(tmp_path, {("val/loss", 4): 40.0}, purge_step=4)
    theirs = accumulators.EventAccumulator(str(tmp_path)).Reload().Scalars("val/loss")
    assert [event.step for event in theirs] == [1, 2, 3, 4]
    assert points_of(tmp_path) == {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0}
    assert read(tmp_path).notes == ()


def test_a_run_that_was_begun_again_in_its_folder_is_not_mixed_with_the_one_before(tmp_path):
    """Without a word on the restart TensorBoard draws both; the old end was judged as the new run's once."""
    pytest.importorskip("tensorboard", reason="extra 'track' is not installed")
    scalars(
        tmp_path, {("val/loss", step): float(step) for step in range(1, 7)} | {("loss", step): 0.0 for step in range(9)}
    )
    scalars(tmp_path, {("val/loss", 1): 10.0, ("val/loss", 2): 20.0})
    assert points_of(tmp_path) == {1: 10.0, 2: 20.0}
    assert [row["step"] for row in read(tmp_path).rows if "loss" in row] == list(
        range(9)
    )  # a curve that nobody began again
    (note,) = read(tmp_path).notes
    assert note.endswith("was written by several event files, of which the last counts: val/loss from step 1 on")
    scalars(tmp_path, {("val/loss", 3): 30.0})  # goes on where the one before ended
    assert points_of(tmp_path) == {1: 10.0, 2: 20.0, 3: 30.0}
    assert "val/loss from step 1 on" in read(tmp_path).notes[0]


def test_text_among_hyperparameters_stays_text(tmp_path):
    pytest.importorskip("tensorboard", reason="extra 'track' is not installed")
    from torch.utils.tensorboard import SummaryWriter

    for last in ("old", "12e3456"):
        with SummaryWriter(tmp_path / "a", filename_suffix=f".{last}") as writer:
            writer.add_hparams({"commit": last, "lr": 0.5}, {}, run_name=".")
            writer.add_scalar("val/loss", 1.0, 1)
        for file in (tmp_path / "a").glob(f"*.{last}"):
            file.rename(tmp_path / "a" / f"events.out.tfevents.{'0' if last == 'old' else '1'}")
    assert {(row["commit"], row["lr"]) for row in read(tmp_path).rows} == {("12e3456", 0.5)}


def test_hyperparameters_in_event_files(tmp_path):
    pytest.importorskip("tensorboard", reason="extra 'track' is not installed")
    from torch.utils.tensorboard import SummaryWriter

    for place, ((opt, seed), course) in enumerate(CURVES.items()):
        with SummaryWriter(tmp_path / str(place)) as writer:
            writer.add_hparams({"opt": opt, "seed": seed, "lr": 0.5}, {}, run_name=".")
            for step, value in course.items():
                writer.add_scalar("val/loss", value, step)
    study = same(tmp_path)
    assert study.to_dict()["notes"][-1].startswith("these runs were read")
    assert {row["lr"] for row in read(tmp_path).rows} == {0.5}


# -- mlflow --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(monkeypatch):
    package = pytest.importorskip("mlflow", reason="extra 'trackers' is not installed")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return package


@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_mlflow_stores(mlflow, tmp_path, store):
    place = tmp_path / ("mlruns" if store == "file" else "mlflow.db")
    client = mlflow.MlflowClient(place.as_uri() if store == "file" else f"sqlite:///{place}")
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    for (opt, seed), course in CURVES.items():
        run = client.create_run(experiment, run_name=f"r-{opt}-{seed}").info.run_id
        client.log_param(run, "opt", opt)
        client.log_param(run, "commit", "12e3456")
        client.log_param(run, "seed", seed)
        client.log_metric(run, "val/loss", 77.0, step=10, timestamp=1)  # logged again after a restart: the last counts
        for step, value in course.items():
            client.log_metric(run, "val/loss", value, step=step)
        client.set_terminated(run, "FINISHED")
    same(place)
    same(tmp_path)
    assert {row["commit"] for row in read(place).rows} == {"12e3456"}
    client.set_terminated(run, "FAILED")
    with pytest.raises(DeclarationError, match=r"r-muon-5 \(mlflow calls it FAILED\)"):
        rg.verdict(place, **ASKED)
    empty = client.create_run(experiment, run_name="begun").info.run_id
    assert empty
    assert read(place).unfinished == {"r-muon-5": "mlflow calls it FAILED", "begun": "mlflow calls it RUNNING"}
    client.delete_run(empty)
    client.delete_run(run)
    assert rg.verdict(place, **ASKED, assume="normal").to_dict()["arms"][1]["comparison"]["pairs"] == 5


# -- wandb ---------------------------------------------------------------------------------------------------------


def test_wandb_offline_runs(tmp_path):
    wandb = pytest.importorskip("wandb", reason="extra 'trackers' is not installed")
    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True)
    for opt, seed in [*RUNS[:2], *RUNS[6:8]]:  # a client takes seconds to begin
        run = wandb.init(dir=str(tmp_path), mode="offline", name=f"{opt}-s{seed}", reinit="create_new", settings=quiet,
                         config={"opt": opt, "seed": seed, "optimizer": {"lr": 0.5}})  # fmt: skip
        for step, value in CURVES[opt, seed].items():
            run.log({"val/loss": value, "big": float("inf"), "text": "x" * 40000}, step=step)
        run.finish(exit_code=0 if seed < 1 or opt == "sgd" else 1)
    found = read(tmp_path / "wandb")
    assert [(r["opt"], r["seed"], r["step"], r["val/loss"], r["optimizer.lr"], r["big"]) for r in found.rows] == [
        (opt, seed, step, CURVES[opt, seed][step], 0.5, np.inf)
        for opt, seed in [*RUNS[:2], *RUNS[6:8]]
        for step in STEPS
    ]
    assert found.unfinished == {"muon-s1": "it ended with exit code 1"}
    folder = next(path for path in sorted((tmp_path / "wandb").glob("offline-run-*")))
    log = next(folder.glob("*.wandb"))
    log.write_bytes(log.read_bytes()[:-5])  # as after a kill
    cut = read(folder)
    assert cut.unfinished == {"sgd-s0": "it wrote no end; it is running, or was killed"}
    assert [row["step"] for row in cut.rows] == list(STEPS)
    log.write_bytes(b"something else")
    with pytest.raises(DeclarationError, match="is no log of wandb"):
        read(log)


# -- which reader ----------------------------------------------------------------------------------------------------


def test_what_lies_there_decides_and_what_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "events.out.tfevents.1").write_bytes(b"")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(DeclarationError, match="is read with tensorboard; install it with: pip install tensorboard"):
        rows_of(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run-1.wandb").write_bytes(b"")
    with pytest.raises(DeclarationError, match="holds files of several trackers .*of wandb .*; name one of them"):
        rows_of(tmp_path)
    (tmp_path / "b" / "events.out.tfevents.1").write_bytes(b"")  # a copy that wandb keeps is wandb's
    with pytest.raises(DeclarationError, match="is read with wandb"):
        rows_of(tmp_path / "b")
    with pytest.raises(DeclarationError, match="or what wandb, mlflow, trackio, tensorboard, transformers keeps"):
        rows_of(tmp_path / "*.nothing")
    with pytest.raises(DeclarationError, match="there is no"):
        rows_of(tmp_path / "nothing")
