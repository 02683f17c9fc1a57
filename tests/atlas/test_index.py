"""The generated index is fresh, and the package's names come from it."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import regimes as rg
from regimes import atlas, workloads
from regimes.atlas import build
from regimes.cli import group
from regimes.core import fields
from regimes.core.registry import PACKAGES, REGISTRY


def test_the_index_is_fresh():
    stored = Path(atlas.INDEX).read_text(encoding="utf-8")
    assert stored == build.text(), "run: python -m regimes.atlas.build"


def test_every_folder_of_components_is_listed():
    packages = {f"regimes.{kind}" for kind in ("core", "engine", "workloads", "study", "report", "cli", "testing")}
    packages |= {
        f"regimes.{kind}"
        for kind in ("recipes", "diagnosis", "atlas", "scaling", "integrations", "claims", "ejection", "track")
    }
    folders = {f"regimes.{file.parent.name}" for file in Path(rg.__file__).parent.glob("*/__init__.py")}
    assert folders - packages <= set(PACKAGES)


def test_every_exported_name_and_component_is_a_name_of_the_package():
    names = {name for package in PACKAGES for name in getattr(importlib.import_module(package), "__all__", ())}
    assert names <= set(dir(rg))
    for name in dir(rg):
        assert getattr(rg, name) is not None
    for name in names:
        assert getattr(rg, name) is getattr(importlib.import_module(atlas.load()["exports"][name]), name)


def test_components_of_ours_are_exported_under_their_own_name():
    missing = [
        entry["name"]
        for entry in atlas.load()["components"]
        if entry["kind"] in atlas.KINDS and entry["name"] not in dir(rg)
    ]
    assert missing == []


@pytest.mark.parametrize("entry", atlas.load()["components"], ids=lambda entry: entry["name"])
def test_an_entry_says_what_the_class_says(entry):
    cls = REGISTRY.find(entry["name"])
    assert (entry["kind"], entry["module"]) == (cls.kind, cls.__module__)
    infos = fields.table(cls)
    assert [field["name"] for field in entry["fields"]] == list(infos)
    for field in entry["fields"]:
        required = infos[field["name"]].default is fields.MISSING
        assert (field["default"] is None) == required
        assert field["allowed"]
        assert "<class" not in field["allowed"]
    assert set(entry["axes"]) <= set(atlas.AXES)
    assert atlas.docstring(entry)
    if entry["kind"] in atlas.KINDS and cls.__module__ != "regimes.core.algebra":
        assert entry["axes"], f"{entry['name']} has no card"
        assert entry["shelf"] in ("core", "atlas")


def test_allowed_words():
    found = {field["name"]: field["allowed"] for field in atlas.find("AdamW")["fields"]}
    assert found["lr"] == "a finite number >= 0, a schedule or a controller"
    assert found["betas"] == "2 knobs, each a finite number >= 0 and < 1"
    phase = {field["name"]: field["allowed"] for field in atlas.find("Phase")["fields"]}
    assert phase["batch_size"] == "an integer >= 1 and <= 1e+07, a schedule or a controller"
    assert phase["micro_batch"] == "an integer >= 1 or 'auto' or None"
    assert phase["trainable"] == "a list of text"
    assert phase["average"] == "an Averager or None"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'regimes' has no attribute 'Adam_W'"):
        rg.Adam_W  # noqa: B018
    assert not hasattr(rg, "__wrapped__")


def test_import_costs_nothing():
    code = "import sys, regimes; print(*sorted(m for m in ('torch', 'numpy', 'pydantic', 'rich') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_workloads_and_functions_are_listed_and_shown():
    listed = CliRunner().invoke(group, ["list", "workload", "--json"])
    assert [entry["name"] for entry in json.loads(listed.stdout)] == workloads.names()
    shown = json.loads(CliRunner().invoke(group, ["show", "digits_mlp", "--json"]).stdout)
    assert shown["fields"][1] == {"name": "examples", "default": "1197", "allowed": "an integer"}
    assert shown["doc"].startswith("Return handwritten digits")
    assert "order_memorization_test" in CliRunner().invoke(group, ["list", "functions", "--all"]).stdout
    everything = CliRunner().invoke(group, ["list", "--all", "--json"])
    assert {entry["name"] for entry in json.loads(everything.stdout)} >= {
        entry["name"] for part in ("functions", "workloads") for entry in atlas.load()[part]
    }
    assert "ReusableHoldout" in CliRunner().invoke(group, ["list", "classes", "--all"]).stdout
    for name in ("digits_mpl", "order_memorisation_test"):
        assert "did you mean" in CliRunner().invoke(group, ["show", name]).stderr
