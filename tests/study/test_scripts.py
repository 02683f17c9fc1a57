"""Three scripts as people write them (plain loop, Lightning, transformers), killed half-way, finished by the same command."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import regimes as rg

SCRIPTS = Path(__file__).parent.parent.parent / "examples" / "scripts"
NEEDS = {"plain_loop": "sklearn", "lightning_script": "lightning", "trainer_script": "transformers"}


def command(folder, name):
    return [
        sys.executable,
        "-m",
        "regimes",
        "compare",
        f"{name}.yaml",
        "--out",
        str(folder / "study"),
        "--workers",
        "2",
    ]


@pytest.fixture(params=NEEDS)
def script(request, tmp_path):
    """A copy of the script and its file, run by this interpreter."""
    name = request.param
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is an extra")
    shutil.copy(SCRIPTS / f"{name}.py", tmp_path)
    text = (SCRIPTS / f"{name}.yaml").read_text().replace("directory: examples/scripts", f"directory: {tmp_path}")
    (tmp_path / f"{name}.yaml").write_text(text.replace("command: python", f"command: {sys.executable}"))
    return tmp_path, name


@pytest.mark.slow
def test_killed_half_way_and_finished_the_verdict_is_that_of_the_csv(script):
    folder, name = script
    runs = folder / "study" / "runs"
    process = subprocess.Popen(command(folder, name), cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while len(list(runs.glob("*/result.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("*/result.json")}
    told = subprocess.run([*command(folder, name), "--json"], cwd=folder, capture_output=True, text=True, check=True)
    facts = json.loads(told.stdout)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(runs.glob("*/result.json"))) == 12
    rows = [
        f"{arm['name']},{seed},{value!r}" for arm in facts["arms"] for seed, value in zip(facts["seeds"], arm["values"])
    ]
    (folder / "runs.csv").write_text("\n".join(["arm,seed,loss", *rows]))
    theirs = rg.verdict(folder / "runs.csv", arm="arm", seed="seed", metric="loss", margin=facts["margin"]).to_dict()
    for ours, other in zip(facts["arms"][1:], theirs["arms"][1:]):
        for key in ("difference", "low", "high", "verdict", "p_sign_flip", "leave_one_out"):
            assert ours["comparison"][key] == other["comparison"][key]
    assert all(len(curve["x"]["step"]) == 3 for arm in facts["arms"] for curve in arm["curves"])


def test_the_files_are_for_scripts_that_are_there():
    for name in NEEDS:
        text = (SCRIPTS / f"{name}.yaml").read_text()
        assert re.search(rf"python {name}\.py ", text)
        assert (SCRIPTS / f"{name}.py").exists()
