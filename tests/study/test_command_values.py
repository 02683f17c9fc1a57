"""What a command leaves is read whole, from this attempt, or not at all; what is read is no part of what a run is."""

import math
import os
import time

import pytest

import regimes as rg
from regimes.core.errors import DeclarationError, RegimesError
from regimes.study.command.line import Line
from regimes.study.command.measured import Measured, Unread
from regimes.study.command.values import Values
from regimes.study.tasks import Task


def measured(tmp_path, name, text, place):
    (tmp_path / name).write_text(text)
    return Measured.parse(f"{{out}}/{name}:{place}", "metric")


@pytest.mark.parametrize(
    ("name", "text", "place", "rows", "last"),
    [
        ("m.json", '{"a": {"b": 2.5}}', "a.b", [(1, 2.5)], 2.5),
        ("m.json", '[{"step": 1, "v": 2}, {"step": 2, "v": 1}]', "v", [(1, 2), (2, 1)], 1),
        ("m.jsonl", '{"it": 5, "v": 2}\n\n{"it": 6}\n{"it": 7, "v": 1}\n', "v@it", [(5, 2), (7, 1)], 1),
        ("m.jsonl", '{"step": 1, "v": 2}\n{"step": 2, "v": "1e-3"}', "v", [(1, 2), (2, 1e-3)], 1e-3),
        ("m.jsonl", '{"step": 1, "v": 2, "t": "a\u2028b"}\n', "v", [(1, 2)], 2),
        ("m.csv", "step,v\n1,2.0\n2,1.5\n", "v", [(1, 2.0), (2, 1.5)], 1.5),
        ("m.csv", "v,step,train\n2.0,1,\n,1,3\n1.5,2,\n,2,2.5\n", "v", [(1, 2.0), (2, 1.5)], 1.5),
        ("m.log", "loss=2.5\nnoise\nloss=2.25\n", "/loss=([0-9.]+)/", [(1, 2.5), (2, 2.25)], 2.25),
    ],
)
def test_metrics_are_read_where_they_stand(tmp_path, name, text, place, rows, last):
    found = measured(tmp_path, name, text, place)
    assert found.rows(tmp_path) == rows
    assert found.last(tmp_path) == last


@pytest.mark.parametrize(
    ("name", "text", "place", "said"),
    [
        ("m.jsonl", '{"v": 2}\n{"v": null}\n', "v", "holds None under 'v' at its end, which is no number"),
        ("m.jsonl", '{"v": 2}\n{"w": 1}\n', "v", "holds no 'v' in its last row, although rows before have it"),
        ("m.jsonl", '{"step": 1, "v": 2}\n{"step": 2}\n', "v", "holds no 'v' in its last row, although"),
        ("m.csv", "step,v\n1,2.0\n2,\n", "v", "holds no 'v' in its last row, although rows before have it"),
        ("m.json", '[{"v": 1}, {"v": true}]', "v", "holds True under 'v' at its end, which is no number"),
        ("m.json", '{"val_loss": 1}', "val_los", "holds no 'val_los' in its last row; did you mean 'val_loss'?"),
        ("m.jsonl", '{"step": 1, "v": 2}\n{"step": 2, "v": 1', "v", "line 2 is cut off: it has no end"),
        ("m.jsonl", '{"step": 1, "v{"step": 2}\n{"v": 1}\n', "v", "line 1 is no JSON"),
        ("m.csv", "step,v\n1,2.0\n2,1.", "v", "its last line has no end, so that it may have been cut off"),
        ("m.csv", "step,v\n1,2.0\n2\n", "v", "row 2 has not as many cells as the first line"),
        ("m.json", '{"v": 1', "v", "cannot be read"),
        ("m.log", "loss 2.5\nloss 1,234.5\n", "/loss (.*)/", "holds '1,234.5' under"),
        ("m.log", "acc 2.5\n", "/loss (.*)/", "holds no '/loss (.*)/'"),
        ("m.jsonl", '{"step": 1, "v": 1}\n{"step": "a"}\n', "v", "holds 'a' under 'step', which is no step"),
    ],
)
def test_what_is_not_whole_at_its_end_is_no_metric(tmp_path, name, text, place, said):
    found = measured(tmp_path, name, text, place)
    with pytest.raises(Unread) as caught:
        found.last(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("told", "value"),
    [("nan", math.nan), ("NaN", math.nan), ("-inf", -math.inf), ("Infinity", math.inf), ("2e-05", 2e-5), ("1E-3", 1e-3),
     ("+.5", 0.5), ("1_000", 1000), ("-2.5", -2.5), ("3.", 3), ("7", 7), ("2.5.", 2.5), ("2.5s", 2.5)],
)  # fmt: skip
@pytest.mark.parametrize(
    "pattern", ["val loss ([0-9.]+)", r"val loss\s(\d+\.\d+)", "val loss.*([0-9])", r"\(?loss ([^)]*)"]
)
def test_numbers_in_text_are_read_whole_and_what_is_not_finite_is_one(tmp_path, told, value, pattern):
    found = measured(tmp_path, "m.log", f"val loss 9.5\nval loss {told}\nval loss improved\n", f"/{pattern}/")
    assert found.last(tmp_path) == pytest.approx(value, rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("file", ["log.jsonl:loss", "log.csv:loss", "stdout.txt:/loss ([0-9.]+)/"])
def test_a_run_whose_loss_is_not_finite_has_diverged(tmp_path, file):
    told = {"log.jsonl": '{"loss": 2.5}\n{"loss": NaN}\n', "log.csv": "loss\n2.5\ninf\n"}
    name = file.partition(":")[0]
    (tmp_path / name).write_text(told.get(name, "loss 2.5\nloss nan\n"))
    work = rg.Command(f"cat {name} > {{out}}/{name} # {{seed}}", f"{{out}}/{file}", directory=tmp_path)
    outcome = work.train(Task("a", Values({}), 0), tmp_path / "runs")
    assert (outcome.failure, list(map(math.isnan, outcome.metrics.values()))) == (None, [True])


RESUMING = "test -f {out}/was || { touch {out}/was; %s exit 3; }; %s # {seed}".replace("{ ", "{{ ").replace(
    "; }", "; }}"
)


@pytest.mark.parametrize("file", ["m.json:v", "log.txt:/v ([0-9.]+)/", "stdout.txt:/v ([0-9.]+)/"])
def test_what_an_earlier_attempt_left_is_not_believed(tmp_path, file):
    name = file.partition(":")[0]
    writes = {"m.json": "echo '{{\"v\": 2}}' > {out}/m.json;", "log.txt": "echo v 2 >> {out}/log.txt;"}
    first = writes.get(name, "echo v 2;")
    work = rg.Command(RESUMING % (first, "echo done"), f"{{out}}/{file}", directory=tmp_path, resumes=True)
    task = Task("a", Values({}), 0)
    assert "exit status 3" in work.train(task, tmp_path / "runs").failure
    outcome = work.train(task, tmp_path / "runs")
    assert outcome.unread
    assert "by an earlier attempt" in outcome.failure or "holds no '/v" in outcome.failure
    again = rg.Command(RESUMING % (first, first + "true"), f"{{out}}/{file}", directory=tmp_path, resumes=True)
    again.train(task, tmp_path / "runs")
    assert list(again.train(task, tmp_path / "runs").metrics.values()) == [2.0]  # written anew, the same value counts


def test_an_attempt_that_ended_well_is_not_gone_on_from(tmp_path):
    work = rg.Command(RESUMING % ("", "true"), "{out}/m.json:v", directory=tmp_path, resumes=True)
    task, found = Task("a", Values({}), 0), tmp_path / "runs" / work.key(Task("a", Values({}), 0))
    said = [work.train(task, tmp_path / "runs").failure for _ in range(3)]
    assert ["exit status 3" in text for text in said] == [True, False, True]
    assert sorted(path.name for path in found.glob("attempt-?")) == ["attempt-1", "attempt-2"]


SCRIPT = """
import json, sys
lr, seed, out = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
open("began", "a").write(".")
json.dump({"loss": lr + lr * seed / 1000}, open(out + "/m.json", "w"))
open(out + "/log.jsonl", "w").write('{"step": 1, "loss": 3}\\n')
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)

    def asked(metric="{out}/m.json:loss", better="lower", **given):
        line = f"{os.sys.executable} train.py {{lr}} {{seed}} {{out}}"
        work = rg.Command(line, metric, directory=tmp_path, curve=given.pop("curve", None))
        arms = {"a": {"lr": 1.0}, "b": {"lr": 2.0}}
        return rg.compare(work, arms, margin=0.1, seeds=6, out=tmp_path / "s", better=better, progress=False, **given)

    return asked


def began(folder):
    return (folder / "began").stat().st_size


@pytest.mark.parametrize("wrong", [{"metric": "{out}/m.json:los"}, {"curve": "{out}/log.jsonl:los"}])
def test_a_typo_costs_one_run_and_its_correction_none(study, tmp_path, wrong):
    with pytest.raises(RegimesError, match=r"seed 0 of 'a': .*holds no .*'los'.*did you mean 'loss'.*No other run is"):
        study(**wrong)
    assert began(tmp_path) == 1
    assert study().verdicts == {"b": "worse"}
    assert began(tmp_path) == 12
    facts = study(curve="{out}/log.jsonl:loss").to_dict()
    assert facts["arms"][1]["curves"][0]["x"]["step"] == [1]
    assert began(tmp_path) == 12  # the curve is read from what is there
    assert {key for arm in facts["arms"] for key in [arm["reused"]]} == {6}


def test_workers_finish_what_runs_and_begin_no_other(study, tmp_path):
    with pytest.raises(RegimesError, match="No other run is begun"):
        study(metric="{out}/m.json:los", workers=2)
    assert began(tmp_path) == 2


def test_a_run_without_metric_is_tried_again_by_the_same_call_and_by_a_corrected_script(study, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT.replace('"/m.json"', 'open(".where").read()'))
    (tmp_path / ".where").write_text("/elsewhere.json")
    for tries in (1, 2):
        with pytest.raises(RegimesError, match="wrote no .*m.json"):
            study()
        assert began(tmp_path) == tries
    (tmp_path / ".where").write_text("/m.json")  # which the line does not name
    assert study().verdicts == {"b": "worse"}
    assert began(tmp_path) == 2 + 12
    (tmp_path / "train.py").write_text(SCRIPT)
    study()
    assert began(tmp_path) == 2 + 12 + 12


def test_one_run_without_metric_among_others_is_one_failure(study, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT.replace("json.dump", "seed == 3 or json.dump"))
    assert [arm["failed"] for arm in study().to_dict()["arms"]] == [1, 1]


def test_files_named_by_values_are_part_of_what_a_run_is(tmp_path):
    (tmp_path / "cfg").mkdir()
    for name in "ab":
        (tmp_path / "cfg" / f"{name}.json").write_text("1")
    work = rg.Command("t --config=cfg/{c}.json {seed} {out}", "{out}/m.json:v", directory=tmp_path)
    spaced = rg.Command("t cfg/{c}.json>{out}/x;t {seed}", "{out}/stdout.txt:/(.)/", directory=tmp_path)

    def keys():
        return [one.key(Task(c, Values({"c": c}), 0)) for one in (work, spaced) for c in "ab"]

    before = keys()
    assert keys() == before
    (tmp_path / "cfg" / "a.json").write_text("2")
    assert [new == old for new, old in zip(keys(), before)] == [False, True, False, True]
    assert rg.Command(work.command, "{out}/m.json:w", curve="{out}/l.csv:v", directory=tmp_path).key(
        Task("b", Values({"c": "b"}), 0)
    ) == before[1]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("python train.py --seed {seed} # don't cache", ["train.py"]),
        ('bash -c "python train.py --seed {seed}"', ["train.py"]),
        ("cd sub && python train.py {seed}", ["train.py", "sub/train.py"]),
        ("cd sub && python -m deep.run {seed}", ["sub/deep/run.py"]),
        ("python -m sub {seed}", ["sub/__main__.py"]),
        ("python train.py {seed} | tee -a all.log", ["train.py"]),
        ("python train.py {seed} 2>> all.log", ["train.py"]),
        ("sh <all.log --config={config} {seed}", ["all.log", "sub/a.json"]),
    ],
)
def test_files_are_found_whatever_the_shell_makes_of_the_line(tmp_path, line, named):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("train.py", "all.log", "sub/train.py", "sub/a.json", "sub/__main__.py", "sub/deep/run.py"):
        (tmp_path / name).write_text("")
    found = Line(line).files({"seed": "0", "config": "sub/a.json"}, tmp_path)
    assert sorted(found) == sorted(tmp_path / name for name in named)


def test_a_run_that_changes_what_it_is_made_of_has_failed(tmp_path):
    (tmp_path / "cache.txt").write_text("1")
    work = rg.Command(
        "echo {seed} >/dev/null; sh -c 'echo 2 > cache.txt'; cat cache.txt", "{out}/stdout.txt:/([0-9]+)/",
        directory=tmp_path,
    )  # fmt: skip
    failure = work.train(Task("a", Values({}), 0), tmp_path / "runs").failure
    assert failure.startswith(f"{tmp_path / 'cache.txt'} changed while the command ran that names it")


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_of_an_appended_table_only_new_rows_count(tmp_path, ending):
    first, row, other = {
        "jsonl": ("", '{"step": 10, "loss": 9}', '{"step": 10, "train": 1}'),
        "csv": ("step,loss,train", "10,9,", "10,,1"),
    }[ending]
    (tmp_path / "train.sh").write_text(
        f"file=$2/log.{ending}\n"
        f"if [ -e $file ]; then echo '{other}' >> $file; else printf '{first}\\n{row}\\n' > $file; exit 1; fi\n"
    )
    work = rg.Command("sh train.sh {seed} {out}", f"{{out}}/log.{ending}:loss", directory=tmp_path, resumes=True)
    first_, second = (work.train(Task("a", Values({}), 0), tmp_path / "runs") for _ in range(2))
    assert "exit status 1" in first_.failure
    assert "holds no 'loss'" in second.failure


@pytest.mark.parametrize(
    "line",
    ["echo '{v}'", 'echo "{v}"', 'echo "$(echo "{v}")"', "echo `echo {v}`", "sh -c 'echo {v}'", "cat <<E\n{v}\nE",
     "echo \\{v}", "echo $'\\'{v}'", 'echo "\\"{v}"', "echo 'a'\"b\"'{v}'", "# it's\necho '{v}'", 'echo "${{A:-"{v}"}}"',
     "echo $(({v}))"],
)  # fmt: skip
@pytest.mark.parametrize("value", ["a b", "$(touch got)", "'; touch got; '", '"; touch got; "', "`touch got`"])
def test_a_value_within_quotes_is_no_command(tmp_path, line, value):
    work = rg.Command(f"{line} # {{seed}}", "{out}/stdout.txt:/(.)/", directory=tmp_path)
    with pytest.raises(DeclarationError, match=r"arms.a.v: got .* within quotes, where a shell would read it"):
        work.check({"a": Values({"v": value})}, {}, [])


@pytest.mark.parametrize(
    "line",
    ["echo {v}", "echo 'it' \"is\" x={v}", "# it's\necho {v}", "echo $(printf %s {v})", 'A="${{A:+:$A}}" && echo {v}',
     "echo '{n}' {v}", "echo a#b {v}", "cat < /dev/null; echo $HOME ${{HOME}} {v}"],
)  # fmt: skip
def test_a_value_outside_quotes_is_one_word(tmp_path, line):
    value = "'; touch got; \" $(touch got) `touch got` \\"
    work = rg.Command(f"{line}\ntrue {{seed}}", "{out}/stdout.txt:/(.)/", directory=tmp_path)
    work.check({"a": Values({"v": value} | ({"n": 1e-3} if "{n}" in line else {}))}, {}, [])
    task = Task("a", Values({"v": value, "n": 1e-3}), 0)
    work.train(task, tmp_path / "runs")
    assert not (tmp_path / "got").exists()
    assert value in (tmp_path / "runs" / work.key(task) / "attempt-1" / "stdout.txt").read_text()


def test_whole_numbers_stay_whole(tmp_path):
    work = rg.Command("t {b} {lr} {seed} {out}", "{out}/m.json:v", directory=tmp_path)
    arm, ranges = Values({"b": 32, "lr": 1.0}), {"b": rg.between(16, 256), "lr": rg.times(1 / 8, 8)}
    work.check({"a": arm}, ranges, [])
    found = [work.tuned(arm, ranges, {"b": share, "lr": share}).given for share in (0.0, 0.3, 0.5, 1.0)]
    assert [(one["b"], type(one["b"])) for one in found] == [(16, int), (37, int), (64, int), (256, int)]
    assert all(isinstance(one["lr"], float) for one in found)
    with pytest.raises(
        DeclarationError, match="tune.b: in arm 'a': holds 1, a whole number, .* from 0.125 to 8; write 1.0"
    ):
        work.check({"a": Values({"b": 1, "lr": 1.0})}, {"b": rg.times(1 / 8, 8)}, [])
    with pytest.raises(DeclarationError, match="tune.b: in arm 'a': holds 32, a whole number, .* from 32 to 32.2"):
        work.check({"a": arm}, {"b": rg.between(32, 32.2)}, [])


def test_a_file_is_told_everything_that_can_be_told_together(tmp_path):
    from regimes.study import files
    from regimes.study.problems import FileErrors

    (tmp_path / "study.yaml").write_text(
        "workload:\n  command: t {lr} {b}\n  metric: m.json:acc\n  curv: x\n  timeout: soon\n"
        "arms:\n  a: {lr: 1e-3, b: 1}\n  c: {lr: 1e-3, mom: 2}\n"
        "compare: {metric: loss, seeds: 6}\ntune: {b: 'times(1/8, 8)', d: 'times(1/8, 8)'}\n"
    )
    with pytest.raises(FileErrors) as caught:
        files.read(tmp_path / "study.yaml")
    assert [(one.line, one.key) for one in caught.value.problems] == [
        (2, "workload.command"), (3, "workload.metric"), (4, "workload.curv"), (5, "workload.timeout"),
        (8, "arms.c"), (8, "arms.c.mom"), (9, "compare.margin"), (10, "tune.b"), (10, "tune.b"), (10, "tune.d"), (10, "tune.d"),
    ]  # fmt: skip
    text = (tmp_path / "study.yaml").read_text().replace("m.json:acc", "'{out}/m.json:acc'")
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(FileErrors) as caught:
        files.read(tmp_path / "study.yaml")
    said = {one.key: str(one) for one in caught.value.problems}
    assert said["compare.metric"].endswith("there is no metric 'loss'; the command's is 'acc'")
    assert "allowed: 'lower' or 'higher'" in said["compare.better"]


def test_reading_waits_for_nothing(tmp_path):
    text = "val loss 2.5 " * 20_000
    began_ = time.perf_counter()
    assert measured(tmp_path, "m.log", text, "/loss.*?([0-9.]+)/").last(tmp_path) == 2.5
    assert time.perf_counter() - began_ < 5
