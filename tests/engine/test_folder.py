"""Nothing is lost: kills, full disks, truncated checkpoints, corrupted lines, two processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine import checkpoint, records
from regimes.engine import folder as folder_module
from regimes.engine.folder import Folder

BASE = rg.Regime(optimizer=rg.AdamW(lr=rg.Cosine(1e-2)), batch_size=8, budget="40 steps", average=rg.EMA(0.9))

SCRIPT = """
import sys, time, torch, regimes as rg
torch.set_num_threads(1)
g = torch.Generator().manual_seed(0)
x = torch.randn(200, 6, generator=g); y = (x[:, 0] > 0).long()
def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.Dropout(0.1), torch.nn.ReLU(), torch.nn.Linear(32, 2))
work = rg.Workload(model=net, train=(x, y), val=(x, y), loss=torch.nn.CrossEntropyLoss())
regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1), momentum=0.9), batch_size=8, budget="300 steps",
                   sampler=rg.LossWeighted(), average=rg.EMA(0.9))
rg.run(work, regime, seed=1, out=sys.argv[1], validate="10%", checkpoint="2 steps")
"""


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    subprocess.run([sys.executable, script, tmp_path / "whole"], check=True)
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, script, tmp_path / "killed"])
        while not (tmp_path / "killed" / "checkpoints").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0.0, 0.4)))
        process.kill()
        process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    subprocess.run([sys.executable, script, tmp_path / "killed"], check=True)
    for name in ("final/model.safetensors", "final/raw.safetensors", "records.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_run_is_not_trained_again(work, tmp_path):
    first = rg.run(work, BASE, out=tmp_path / "r")
    times = (tmp_path / "r" / "times.jsonl").read_text()
    again = rg.run(work, BASE, out=tmp_path / "r")
    assert again.metrics == first.metrics
    assert (tmp_path / "r" / "times.jsonl").read_text() == times
    assert torch.equal(again.model.state_dict()["0.weight"], first.model.state_dict()["0.weight"])


def test_final_says_which_weights_it_holds(work, tmp_path):
    from safetensors import safe_open

    rg.run(work, BASE, out=tmp_path / "r")
    with safe_open(tmp_path / "r" / "final" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"weights": "averaged"}
    with safe_open(tmp_path / "r" / "final" / "raw.safetensors", "pt") as file:
        assert file.metadata() == {"weights": "raw"}


def test_changed_regime_is_refused_naming_paths(work, tmp_path):
    rg.run(work, BASE, out=tmp_path / "r")
    with pytest.raises(rg.ResumeError, match=r"optimizer\.lr\.peak: 0\.01 -> 0\.02"):
        rg.run(work, BASE.but(peak=0.02), out=tmp_path / "r")


def test_edited_model_is_noticed(work, tmp_path):
    rg.run(work, BASE, out=tmp_path / "r")
    other = rg.Workload(
        model=lambda: nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)),
        train=(torch.zeros(4, 6), torch.zeros(4).long()),
        loss=nn.CrossEntropyLoss(),
    )
    with pytest.raises(rg.ResumeError, match="another"):
        rg.run(other, BASE, out=tmp_path / "r")


def stopped(work, folder, steps=20):
    """Leave a run in a folder as a kill would, after `steps` steps."""
    stream = rg.stream(work, BASE, out=folder, checkpoint="4 steps")
    for _ in range(steps):
        next(stream)
    stream.close()


def test_truncated_checkpoint_is_refused_and_the_previous_one_used(work, tmp_path):
    whole = rg.run(work, BASE, out=tmp_path / "whole")
    stopped(work, tmp_path / "r")
    newest = tmp_path / "r" / "checkpoints" / checkpoint.names(tmp_path / "r" / "checkpoints")[0]
    content = (newest / "tensors.safetensors").read_bytes()
    (newest / "tensors.safetensors").write_bytes(content[: len(content) // 2])
    again = rg.run(work, BASE, out=tmp_path / "r")
    assert "is not whole" in again.notes[0]
    assert again.metrics == whole.metrics
    assert (tmp_path / "r" / "records.jsonl").read_bytes() == (tmp_path / "whole" / "records.jsonl").read_bytes()


def test_foreign_checkpoint_is_refused_with_a_sentence(work, tmp_path):
    stopped(work, tmp_path / "r")
    folder = tmp_path / "r" / "checkpoints"
    for name in checkpoint.names(folder):
        (folder / name / "state.json").write_text(json.dumps({"format": 99, "tensors": [], "tree": {}}))
    tree, said = Folder(tmp_path / "r").newest()
    assert tree is None
    assert all("foreign format" in sentence for sentence in said)


def test_refused_checkpoints_do_not_crowd_out_new_ones(work, tmp_path):
    stopped(work, tmp_path / "r", steps=20)
    folder = tmp_path / "r" / "checkpoints"
    for name in checkpoint.names(folder):
        (folder / name / "state.json").write_text("{")
    stopped(work, tmp_path / "r", steps=10)
    tree, said = Folder(tmp_path / "r").newest()
    assert tree["run"]["frames"][0]["step"] == 8
    assert said == []
    assert len(list(folder.glob(".refused-*"))) == 2


def test_full_disk_leaves_the_previous_checkpoint(work, tmp_path, monkeypatch):
    stopped(work, tmp_path / "r", steps=9)
    before = checkpoint.names(tmp_path / "r" / "checkpoints")

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    folder = Folder(tmp_path / "r")
    run = rg.Run(work, BASE)
    run.step()
    folder.save(run, 0)
    with pytest.raises(rg.ResumeError, match="No space left on device"):
        folder.saved()
    monkeypatch.undo()
    assert checkpoint.names(tmp_path / "r" / "checkpoints") == before
    assert not list((tmp_path / "r" / "checkpoints").glob(".part-*"))


LIMITED = """
import resource, signal, sys
import torch, regimes as rg
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
work = rg.workloads.load("digits_mlp")
regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=32, budget="12 steps")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    rg.run(work, regime, out=sys.argv[1], checkpoint=sys.argv[3])
except rg.ResumeError as why:
    print(why)
"""


def test_a_file_that_may_not_grow_further_ends_in_a_sentence(tmp_path):
    """A real refusal of the system's, inside the library that writes tensors: 4,810 numbers do not fit into 8,000 bytes."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "r"), "8000", "50%"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "the checkpoint at step 6 could not be written" in out
    assert f"regimes resume {tmp_path / 'r'}" in out


def test_final_weights_that_cannot_be_written_end_in_a_sentence_and_are_not_lost(work, tmp_path):
    whole = rg.run(work, BASE, out=tmp_path / "whole")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "final").write_text("in the way")
    with pytest.raises(
        rg.ResumeError, match=r"final weights could not be written \(Not a directory\); .*regimes resume"
    ):
        rg.run(work, BASE, out=tmp_path / "r")
    (tmp_path / "r" / "final").unlink()
    assert rg.run(work, BASE, out=tmp_path / "r").metrics == whole.metrics
    final = "final/model.safetensors"
    assert (tmp_path / "r" / final).read_bytes() == (tmp_path / "whole" / final).read_bytes()


def test_corrupted_record_line_is_named_and_left_out(work, tmp_path):
    rg.run(work, BASE, out=tmp_path / "r")
    file = tmp_path / "r" / "records.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[3] = lines[3][:10] + "\n"
    file.write_text("".join(lines) + '{"step": 40, "pha')
    found, said = records.read(tmp_path / "r")
    assert [row["step"] for row in found] == [s for s in range(40) if s != 3]
    assert len(said) == 1
    assert "line 4" in said[0]


def test_second_process_on_the_same_run_is_refused(work, tmp_path):
    stream = rg.stream(work, BASE, out=tmp_path / "r")
    next(stream)
    with pytest.raises(rg.ResumeError, match="another process"):
        rg.run(work, BASE, out=tmp_path / "r")
    stream.close()


def train_until_terminated(work, folder, step):
    for record in rg.stream(work, BASE, out=folder):
        if record.at.step == step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_interrupt_keeps_a_checkpoint_and_names_the_command(work, tmp_path):
    with pytest.raises(rg.Interrupted, match="regimes resume") as caught:
        train_until_terminated(work, tmp_path / "r", step=7)
    assert caught.value.code == 143
    assert checkpoint.names(tmp_path / "r" / "checkpoints")[0] == "step-0000000008"
    whole = rg.run(work, BASE, out=tmp_path / "whole")
    assert rg.run(work, BASE, out=tmp_path / "r").metrics == whole.metrics


class Spoiled(nn.Module):
    """Gives no number on training examples that begin with a large one."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 3)

    def forward(self, x):
        return self.body(x) + torch.where(x[:, :1] > 100.0, float("nan"), 0.0)


def test_skipped_steps_are_counted_and_said(tmp_path):
    x = torch.zeros(40, 6)
    x[[3, 17]] = 1000.0  # two of the five batches of an epoch, in order
    work = rg.Workload(model=Spoiled, train=(x, torch.zeros(40).long()), val=(x[:2], torch.zeros(2).long()),
                       loss=nn.CrossEntropyLoss())  # fmt: skip
    regime = BASE.but(sampler=rg.Sequential(), budget="15 steps", average=None)
    for result in (
        rg.run(work, regime, out=tmp_path / "r"),
        rg.run(work, regime, out=tmp_path / "r"),
        rg.run(work, regime),
    ):
        assert (result.steps, result.skipped) == (15, 6)
        assert "15 steps, 6 of them skipped, val/loss" in repr(result)
        assert result.notes == [
            "6 of 15 steps were skipped: loss or gradient was not finite, or a guard left them out, and nothing was updated"
        ]
        assert result.notes[0] in result._repr_html_()
    assert json.loads((tmp_path / "r" / "result.json").read_text())["skipped"] == 6


def test_no_skipped_step_is_not_mentioned(work, tmp_path):
    result = rg.run(work, BASE, out=tmp_path / "r")
    assert result.skipped == 0
    assert result.notes == []
    assert "of them skipped" not in repr(result)
    assert json.loads((tmp_path / "r" / "result.json").read_text())["skipped"] == 0


def test_run_json_says_how_the_workload_is_built_and_what_was_imported(work, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "USER_MODULES", {"mine.layers", "_regimes_study_1234abcd"})
    spec = {"name": "mine.layers:work", "width": 96}
    rg.run(work, BASE, out=tmp_path / "r", workload_spec=spec)
    declared = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (declared["workload_spec"], declared["modules"]) == (spec, ["mine.layers"])


def test_metrics_have_names():
    with pytest.raises(
        rg.DeclarationError, match=r"metrics: got \[Accuracy\(\)\]; allowed: a dict of names to metrics"
    ):
        rg.Workload(model=nn.Linear(2, 2), train=(torch.zeros(2, 2), torch.zeros(2).long()),
                    loss=nn.CrossEntropyLoss(), metrics=[rg.Accuracy()])  # fmt: skip
