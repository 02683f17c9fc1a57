"""``regimes eject``: to stdout, to a file, checked; what it refuses, with the line of the file."""

import json
import subprocess
import sys

import regimes as rg


def test_it_prints_the_script_that_python_returns(cli):
    from regimes.study import files

    assert cli("eject", "base.yaml").stdout == rg.eject(files.read(cli.folder / "base.yaml"))


def test_flags_reach_the_script(cli):
    said = cli("eject", "base.yaml", "--out", "train.py", "--seed", "7", "--set", "lr.peak=0.2").stdout
    text = (cli.folder / "train.py").read_text()
    assert said == ""
    assert "SEED = 7" in text
    assert 'Cosine(0.2, warmup="20%")' in text


def test_the_script_runs_and_ends_in_the_metrics_of_the_run(cli):
    cli("eject", "base.yaml", "--out", "train.py")
    made = subprocess.run([sys.executable, "train.py"], cwd=cli.folder, capture_output=True, text=True, check=True)
    expected = json.loads(cli("run", "base.yaml", "--json").stdout)["metrics"]
    assert made.stdout.splitlines()[-1] == str({name: expected[name] for name in ("val/loss", "val/acc")})
    assert (cli.folder / "train.pt").exists()


def test_check(cli):
    assert cli("eject", "base.yaml", "--check").stdout == "20 steps (the whole run, metrics included) agree bitwise\n"
    found = json.loads(cli("eject", "base.yaml", "--check", "--json").stdout)
    assert found["check"] == {"steps": 20, "finished": True, "differing": []}


def test_a_difference_is_said_and_is_exit_status_1(cli, monkeypatch):
    from regimes.ejection import api

    right = api.Script.text
    monkeypatch.setattr(api.Script, "text", lambda self: right(self).replace("momentum=0.9", "momentum=0.8"))
    found = cli("eject", "base.yaml", "--check", code=1)
    assert "do not agree: weights.weight, weights.bias, val/loss" in found.stdout


def test_what_is_refused_has_the_line_of_the_file(cli):
    said = cli("eject", "base.yaml", "--set", "budget=1e6 flops", code=2)
    assert "regime.budget: got '1000000 flops'; allowed in a script: steps, samples, tokens or epochs" in said.stderr
