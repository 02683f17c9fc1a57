"""Rows of the catalogue: titles for all that cards name, counts from marked tests, verdicts with their scale, stale ones said."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from regimes import atlas
from regimes.atlas import build
from regimes.cli import group


def run(*arguments):
    return CliRunner().invoke(group, ["atlas", *arguments], prog_name="regimes")


def test_every_row_that_a_card_names_is_known_and_covered():
    known = json.loads(Path(atlas.ROWS).read_text())
    described = [*atlas.load()["components"], *atlas.load()["functions"]]
    named = {row for entry in described for row in entry["rows"]}
    assert named == set(known)
    assert all(set(row) == {"title", "axis", "kind"} for row in known.values())


def test_every_row_has_two_exact_tests_and_conformance():
    short = {row["id"]: row["evidence"]["exact"] for row in atlas.rows() if row["evidence"]["exact"] < 2}
    assert short == {}
    whole = {entry["name"] for entry in atlas.load()["components"]}
    assert all(row["evidence"]["property"] >= 6 for row in atlas.rows() if set(row["components"]) & whole)


def test_marked_tests_are_counted_by_name():
    tree = ast.parse('@pytest.mark.exact("A", "B")\n@pytest.mark.slow\ndef test_it(): ...\ndef test_other(): ...')
    assert [build._exact_of(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == [["A", "B"], []]
    names = {entry["name"] for entry in [*atlas.load()["components"], *atlas.load()["functions"]]}
    names |= set(atlas.load()["exports"])  # Rollouts, a source, is no component
    assert set(build.exact_tests()) <= names


def test_the_command_says_every_row_and_its_evidence():
    found = json.loads(run("--json").output)
    assert found == atlas.rows()
    row = next(row for row in found if row["id"] == "rs2")
    assert set(row) == {"id", "title", "axis", "kind", "components", "evidence"}
    assert {"text", "verdict", "effect", "low", "high", "margin", "n"} <= set(row["evidence"]["claims"][0])
    plain = run("--axis", row["axis"]).output
    assert row["title"] in plain
    for claim in row["evidence"]["claims"]:
        if claim["verdict"]:
            assert f"{claim['verdict']} [" in plain
            assert claim["scale"] in plain


def test_an_axis_that_is_none_is_refused():
    found = run("--axis", "ordre")
    assert found.exit_code == 2
    assert "--axis: got 'ordre'; did you mean 'order'?" in found.output


def test_a_verdict_older_than_the_code_is_stale(monkeypatch):
    row, claimed = next((row, claim) for row in atlas.rows() for claim in row["evidence"]["claims"] if claim["verdict"])
    monkeypatch.setattr(atlas, "_code", lambda name: "another")
    claims = [claim for r in atlas.rows() if r["id"] == row["id"] for claim in r["evidence"]["claims"]]
    assert all(claim["stale"] for claim in claims if claim["verdict"])
    assert "(stale: the code has changed since)" in run("--axis", row["axis"]).output
    assert (
        "(stale: the code has changed since)"
        in CliRunner().invoke(group, ["show", claimed["component"]], prog_name="regimes").output
    )


@pytest.mark.parametrize("name", ["RandomSubset", "Cosine"])
def test_the_code_is_read_as_verify_reads_it(name):
    from regimes.core.registry import REGISTRY
    from regimes.study.verify import code_of

    module = REGISTRY.find(name).__module__
    assert atlas._code(module) == code_of(sys.modules[module])


def test_a_verdict_older_than_what_measured_it_is_stale():
    row = {"code": atlas._code("regimes.weights.soup"), "measure": "regimes.claims.soups:greedy"}
    assert not atlas._stale(row | {"measure_code": atlas._code("regimes.claims.soups")}, "regimes.weights.soup")
    assert atlas._stale(row | {"measure_code": "another"}, "regimes.weights.soup")


def test_a_verdict_grows_stale_by_code_and_not_by_words():
    one = 'class A:\n    """What."""\n\n    def f(self):\n        """One."""\n        return "# 1"\n'
    said = 'class A:\n    """Something\n    else."""\n\n    # Why.\n    def f(self):\n        return "# 1"\n'
    assert atlas.digest(one) == atlas.digest(said)
    for other in (one.replace("# 1", "# 2"), one.replace("        return", "    return"), one.replace("f(", "g(")):
        assert atlas.digest(one) != atlas.digest(other)
