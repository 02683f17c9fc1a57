"""Studies of which little is known, studies that contradict themselves, and what is written to disk."""

from __future__ import annotations

import copy
import html
import json

import pytest
from html_reader import Page
from study_fixture import EVIL

from regimes.report import figures, render, write
from regimes.report.normal import normal

MINIMAL = {
    "schema": 1,
    "name": "m",
    "metric": "acc",
    "better": "higher",
    "margin": 0.01,
    "baseline": "a",
    "seeds": [0, 1],
    "sentence": "s",
    "arms": [{"name": "a"}, {"name": "b"}],
}


def test_least_study_says_none_everywhere() -> None:
    page = Page(render(MINIMAL))
    said = {name: page.id(name).all(css="none") for name in ("trust", "curves", "sensitivity", "cost", "inside")}
    assert all(len(nodes) == 1 for nodes in said.values())
    assert "not compared" in page.id("verdict").text
    assert page.charts["specs"] == {}


def test_nothing_failed_says_none(lean: dict) -> None:
    del lean["arms"][4]
    assert Page(render(lean)).id("failures").text == "Failures and exclusions None."


@pytest.mark.parametrize("value", [None, [], {}, "absent"])
def test_any_optional_part_may_be_missing(study: dict, lean: dict, value: object) -> None:
    study = study if value in (None, "absent") else lean
    optional = set(study) - set(MINIMAL)
    arm_keys = set(study["arms"][1]) - {"name", "values"}
    study["arms"] = study["arms"][:3]  # the third keeps everything that the first two lose
    for place, keys in [(study, optional), (study["arms"][1], arm_keys), (study["arms"][0], arm_keys)]:
        for key in keys:
            if value == "absent":
                del place[key]
            elif value is None or isinstance(place[key], type(value)):
                place[key] = value
    page = Page(render(study))
    assert page.id("verdict").all("p")[0].text == study["sentence"]


@pytest.mark.parametrize("part", ["comparison", "cost", "workload"])
def test_any_number_inside_a_part_may_be_none(lean: dict, part: str) -> None:
    places = [lean["workload"]] if part == "workload" else [arm[part] for arm in lean["arms"] if arm[part]]
    for place in places:
        for key in set(place) - {"verdict"}:
            place[key] = None
    assert Page(render(lean)).unbalanced == []


def test_higher_is_better_turns_the_sign(lean: dict) -> None:
    lean["better"] = "higher"
    page = Page(render(lean))
    gains = [mine - base for base, mine in zip(lean["arms"][0]["values"], lean["arms"][1]["values"])]
    titles = page.id("seeds").all("figure")[0].text
    assert f"better on {sum(gain > 0 for gain in gains)} of 8 seeds" in titles


# --- refusals and files -------------------------------------------------------------------------------------


def test_refusals_are_sentences(study: dict) -> None:
    cases = [
        ({"schema": 2}, r"study\['schema'\] is 2; this report reads schema 1 only"),
        ({"better": "up"}, "'up'; allowed: 'lower', 'higher'"),
        ({"baseline": "adamw-cosin"}, "nearest: 'adamw-cosine'"),
        ({"seeds": [0, 1]}, "'adamw-cosine' has 8 values for 2 seeds"),
        ({"arms": study["arms"] + study["arms"][:1]}, "two arms are named 'adamw-cosine'"),
    ]
    for change, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            render(study | change)
    wrong = copy.deepcopy(study)
    wrong["arms"][1]["comparison"]["verdict"] = "great"
    with pytest.raises(ValueError, match="verdict 'great'; allowed: better, worse, same, undecided"):
        render(wrong)
    del study["metric"]
    with pytest.raises(ValueError, match="the study has no 'metric'"):
        render(study)


def test_not_a_number_reads_as_unknown(lean: dict) -> None:
    lean["arms"][1]["values"][2] = float("nan")
    lean["arms"][1]["cost"]["seconds"] = float("inf")
    clean = normal(lean)
    assert clean["arms"][1]["values"][2] is None
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean
    assert "NaN" not in Page(render(lean)).unpack("charts")


def test_render_changes_nothing_and_repeats_itself(lean: dict) -> None:
    before = copy.deepcopy(lean)
    once = render(lean)
    assert lean == before
    assert render(json.loads(json.dumps(lean))) == once


def test_write_is_all_or_nothing(tmp_path) -> None:
    path = write(MINIMAL, tmp_path / "new" / "report.html")
    assert path == tmp_path / "new" / "report.html"
    whole = path.read_text(encoding="utf-8")
    assert whole == render(MINIMAL)
    with pytest.raises(ValueError):
        write(MINIMAL | {"schema": 3}, path)
    assert path.read_text(encoding="utf-8") == whole
    assert write(MINIMAL | {"name": "other"}, tmp_path / "new") == path  # a folder gets report.html
    assert Page(path.read_text(encoding="utf-8")).root.all("h1")[0].text == "other"
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_failed_write_leaves_the_old_report_and_no_rest(tmp_path) -> None:
    path = write(MINIMAL, tmp_path / "report.html")
    whole = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):  # a lone surrogate cannot be written as UTF-8: fails half way
        write(MINIMAL | {"sentence": "\ud800"}, path)
    assert path.read_bytes() == whole
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_figures_come_as_svg_and_pdf(study: dict, tmp_path) -> None:
    for arm in study["arms"]:
        arm["inside"] = {}
    study["arms"] = study["arms"][:2]
    study["arms"][1]["name"] = EVIL
    written = figures(study, tmp_path / "figures")
    names = {path.stem for path in written}
    assert {"forest", "curves", "difference", "best-of-k", "cost", "schedule-0-optimizer-lr"} <= names
    assert len(written) == 2 * len(names) == len(list((tmp_path / "figures").iterdir()))
    assert all(path.read_bytes().startswith(b"%PDF") for path in written if path.suffix == ".pdf")
    forest = (tmp_path / "figures" / "forest.svg").read_text(encoding="utf-8")
    assert EVIL in html.unescape(forest)
    assert "<b>" not in forest
