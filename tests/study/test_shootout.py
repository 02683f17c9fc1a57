"""The same arms on several workloads: targets, steps to them, profiles, and what the file may say."""

import json

import pytest
from click.testing import CliRunner

import regimes as rg
from regimes.cli import group
from regimes.study.shootout import judged, read
from regimes.study.study import Study

FILE = """
workloads:
  quad: {workload: {name: quadratic, examples: 64}, batch_size: 8, budget: 40 steps, margin: 0.05}
  moons:
    workload: {name: teacher_student, student: 4}
    batch_size: 16
    budget: 30 steps
    margin: 0.1
    skip: [plain]
    arms: {adamw: {grad_transforms: [ClipNorm(1.0)]}}
arms:
  sgd: SGD(lr=Cosine(0.1), momentum=0.9)
  plain: {optimizer: SGD(lr=0.01)}
  adamw: AdamW(lr=Cosine(0.01))
compare: {baseline: sgd, metric: val/loss, better: lower, seeds: 7}
target: 0.5
"""


def written(tmp_path, text=FILE):
    file = tmp_path / "shootout.yaml"
    file.write_text(text)
    return file


def study(values, seconds=(1.0, 2.0, 3.0, 4.0), **more):
    """Facts of a study of two arms from their curves, a list of seeds each."""
    arms = [
        {
            "name": name,
            "curves": [{"x": {"step": [10, 20, 30, 40], "seconds": list(seconds)}, "value": v} for v in curves],
            "failed": 0,
            "diverged": more.get("diverged", {}).get(name, 0),
            "mean": 0.0,
            "comparison": None,
        }
        for name, curves in values.items()
    ]
    return Study(
        {"arms": arms, "baseline": "a", "better": more.get("better", "lower"), "name": "s", "sentence": ""}, None
    )


def test_targets_and_steps_lie_between_measurements_of_mean_curves():
    """The baseline falls 4, 3, 2, 1: at half of 40 steps its mean is 3. b's mean is 5, 4, 2, 0: at 25 steps it is 3."""
    found = judged({"w": study({"a": [[5, 4, 3, 2], [3, 2, 1, 0]], "b": [[6, 5, 3, 1], [4, 3, 1, -1]]})}, 0.5)
    assert found.targets == {"w": 3.0}
    assert found.steps == {"a": {"w": 20.0}, "b": {"w": 25.0}}
    assert found.seconds == {"a": {"w": 2.0}, "b": {"w": 2.5}}
    assert found.profiles["a"].score() == 1.0
    assert found.profiles["b"].ratios == {"w": 1.25}


def test_what_never_gets_there_or_diverged_is_a_miss_and_higher_can_be_better():
    curves = {"a": [[1, 2, 3, 4]], "b": [[0, 0, 1, 2]], "c": [[9, 9, 9, 9]]}
    found = judged({"w": study(curves, better="higher", diverged={"c": 1})}, 0.75)
    assert found.targets == {"w": 3.0}
    assert found.steps == {"a": {"w": 30.0}, "b": {"w": None}, "c": {"w": None}}


def test_a_file_makes_a_study_of_each_workload(tmp_path):
    found, share = read(written(tmp_path))
    assert share == 0.5
    assert list(found) == ["quad", "moons"]
    assert list(found["quad"].arms) == ["sgd", "plain", "adamw"]
    assert list(found["moons"].arms) == ["sgd", "adamw"]
    assert found["moons"].arms["adamw"].phases[0].grad_transforms == (rg.ClipNorm(1.0),)
    assert found["quad"].arms["adamw"].phases[0].grad_transforms == ()
    assert found["quad"].settings["margin"] == 0.05
    assert found["moons"].arms["sgd"].phases[0].batch_size == 16


def test_the_command_writes_studies_a_table_and_a_picture_and_trains_nothing_twice(tmp_path):
    asked = ["shootout", str(written(tmp_path)), "--out", str(tmp_path / "o"), "--no-progress"]
    result = CliRunner().invoke(group, asked)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "o" / "shootout.json").read_text())
    assert set(facts["scores"]) == {"sgd", "plain", "adamw"}
    assert "plain" not in facts["finals"]["moons"]
    assert facts["steps"]["sgd"]["quad"] <= 0.51 * 40
    assert (tmp_path / "o" / "quad" / "report.html").exists()
    table = (tmp_path / "o" / "shootout.md").read_text()
    assert table.startswith("| arm | score | quad: steps to ")
    assert (tmp_path / "o" / "profiles.svg").read_text().startswith("<svg")
    runs = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("*/runs/*/result.json")}
    assert len(runs) == 7 * 5
    again = json.loads(CliRunner().invoke(group, [*asked, "--json"]).output)
    assert again == facts
    assert {path: path.stat().st_mtime_ns for path in runs} == runs


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("target: 0.5", "target: 2", "target: got 2; allowed: a share of the baseline's course"),
        ("target: 0.5", "targets: 2", "did you mean 'target'"),
        ("skip: [plain]", "skip: [plane]", "workloads.moons: got 'plane', which is no arm; did you mean 'plain'"),
        ("{workload: {name: quadratic, examples: 64}, ", "{", "allowed: a mapping with workload:"),
        ("batch_size: 8", "batch_sise: 8", "workloads.quad"),
        ("workloads:", "workload:", "allowed: a mapping with workloads"),
    ],
)
def test_refusals(tmp_path, old, new, sentence):
    with pytest.raises(rg.DeclarationError) as why:
        read(written(tmp_path, FILE.replace(old, new, 1)))
    assert sentence in str(why.value)
