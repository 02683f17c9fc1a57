"""The commands, their flags and what they cost to start: frozen."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import regimes.cli
from regimes.cli import COMMANDS, group

#: Every command with its arguments and flags. What stands here is a promise to scripts: add, never change.
SURFACE = {
    "demo": "--out --workers --seeds --progress/--no-progress --json --debug",
    "run": "FILE --out --seed --set --validate --probe --reduce --track --progress/--no-progress --json --debug",
    "import": "PATH --out --workload --devices --examples --ignore --check/--no-check --json --debug",
    "eject": "FILE --out --seed --check --set --json --debug",
    "resume": "DIRECTORY --progress/--no-progress --json --debug",
    "fork": "RUN --at --set --seed --out --progress/--no-progress --json --debug",
    "extend": "RUN --budget --schedule --at --out --progress/--no-progress --json --debug",
    "replay": "RUN --steps --probe --without --out --progress/--no-progress --json --debug",
    "plan": "FILE --set --time/--no-time --json --debug",
    "check": "FILE --set --json --debug",
    "compare": "FILE --out --workers --seeds --until --max-cost --noise --set --track --progress/--no-progress --json --debug",
    "atlas": "--axis --json --debug",
    "shootout": "FILE --out --workers --progress/--no-progress --json --debug",
    "tune-lr": "FILE --arm --low --high --metric --seeds --transfer --out --workers --set --progress/--no-progress --json "
    "--debug",
    "verify": "[NAMES] --all --out --workers --record --progress/--no-progress --json --debug",
    "verdict": "PATH --arm --seed --metric --margin --better --baseline --level --step --at --nan --where --noise --assume "
    "--pattern --unfinished --out --json --debug",
    "guard": "FILE --base --head --seeds --out --markdown --progress/--no-progress --json --debug",
    "audit": "[ROOT] --metric --margin --better --level --differ --json --debug",
    "early-signal": "[ROOT] --metric --at --final --better --prefer --within --keep --json --debug",
    "report": "STUDY --out --json --debug",
    "show": "NAME --json --debug",
    "diff": "A B --json --debug",
    "list": "[KIND] --axis --all --json --debug",
    "runs": "[ROOT] --all --json --debug",
    "index": "[ROOT] --json --debug",
    "new": "KIND NAME --out --json --debug",
}


def command(name):
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


def surface(name):
    words = []
    for parameter in command(name).params:
        if isinstance(parameter, click.Argument):
            words.append(parameter.name.upper() if parameter.required else f"[{parameter.name.upper()}]")
        else:
            words.append("/".join([*parameter.opts, *parameter.secondary_opts]))
    return " ".join(words)


def test_commands_and_flags_are_frozen():
    assert {name: surface(name) for name in COMMANDS} == SURFACE


def test_every_module_of_a_command_is_listed():
    files = {file.stem for file in Path(regimes.cli.__file__).parent.glob("*.py")} - {"__init__", "common"}
    assert files == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_begins_with_what_the_list_says_and_ends_with_an_example_that_parses(name):
    found = command(name)
    assert found.help.split("\n")[0] == COMMANDS[name]
    assert found.epilog.startswith("\b\nExample:\n  regimes ")
    program, called, *arguments = shlex.split(found.epilog.split("\n")[-1])
    assert (program, called) == ("regimes", name)
    found.make_context(name, arguments)


def loaded_by(*arguments):
    code = (
        "import sys; sys.argv = ['regimes', *sys.argv[1:]]\n"
        "from regimes.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "--axis", "order", "--json"], ["show", "Cosine"], ["run", "--help"]]
)
def test_what_only_tells_loads_nothing_heavy(arguments):
    loaded = loaded_by(*arguments)
    assert "regimes.cli" in loaded
    assert loaded & {"torch", "numpy", "pydantic", "rich", "scipy", "ruamel.yaml", "jinja2", "altair"} == set()


@pytest.mark.parametrize(
    ("arguments", "free"),
    [
        (["runs", "runs"], {"torch", "numpy", "rich"}),
        (["runs", "runs", "--json"], {"torch", "numpy", "rich"}),
        (["index", "runs"], {"torch", "numpy", "rich"}),
        (["show", "runs/study/runs/k"], {"torch", "numpy", "rich"}),
        (["show", "runs/study"], {"torch", "altair"}),
        (["report", "runs/study"], {"torch", "rich"}),
    ],
)
def test_what_only_reads_runs_and_studies_loads_no_torch(arguments, free, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "study" / "runs" / "k"
    run.mkdir(parents=True)
    declared = {"key": "k", "regime": "Regime()", "identity": {"seed": 0}, "workload": "tiny", "created": "2026"}
    (run / "run.json").write_text(json.dumps(declared))
    (run / "result.json").write_text(json.dumps({"step": 1, "metrics": {"val/loss": 0.5}}))
    (run / "records.jsonl").write_text('{"step": 0, "loss": 0.5}\n')
    arms = [{"name": name, "values": [0.5], "mean": 0.5, "sd": None, "comparison": None, "tuning": None, "diverged": 0,
             "absent": [], "cost": {"ratio": 1.0}, "rungs": []} for name in "ab"]  # fmt: skip
    study = {"schema": 1, "name": "s", "metric": "val/loss", "better": "lower", "margin": 0.1, "baseline": "a", "seeds": [0],
             "sentence": "a and b.", "arms": arms, "paired": True, "trials": 0, "budget": "1 steps", "level": 0.95,
             "workload": {"scale": "small"}, "one_seed_sentence": None, "lamps": [], "notes": []}  # fmt: skip
    (run.parent.parent / "study.json").write_text(json.dumps(study))
    monkeypatch.chdir(tmp_path)
    loaded = loaded_by(*arguments)
    assert "regimes.cli" in loaded
    assert loaded & free == set()


def test_unknown_commands_and_kinds_name_the_nearest(cli):
    assert "there is no command 'lst'; did you mean 'list'?" in cli("lst", code=2).stderr
    assert "there is no kind 'samplr'; did you mean 'sampler'?" in cli("list", "samplr", code=2).stderr
