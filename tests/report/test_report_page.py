from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from html_reader import Node, Page
from study_fixture import EVIL

from regimes.report import render


def rows(page: Page) -> dict[str, Node]:
    """The forest plot's rows by arm."""
    found = page.id("verdict").all("li", "row")
    return {row.all(css="name")[0].text: row for row in found}


def percent(node: Node, name: str) -> float:
    return float(node.attributes[name].removesuffix("%"))


# --- what it says -------------------------------------------------------------------------------------------


def test_sentence_comes_first_and_whole(page: Page, study: dict) -> None:
    assert page.id("main").all("p")[0].text == study["sentence"]


def test_forest_has_every_arm_with_word_glyph_and_numbers(page: Page, study: dict) -> None:
    glyphs = {"better": "▲", "worse": "▼", "same": "=", "undecided": "?"}
    found = rows(page)
    assert list(found) == [arm["name"] for arm in study["arms"][1:]]
    assert {arm["comparison"]["verdict"] for arm in study["arms"][1:]} == set(glyphs)
    for arm in study["arms"][1:]:
        one = arm["comparison"]
        expected = f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]".replace("-", "−")
        row = found[arm["name"]]
        assert row.all(css="word")[0].text == glyphs[one["verdict"]] + one["verdict"]
        assert row.all(css="numbers")[0].text.startswith(expected)
    assert "7 more seeds (60 s) would decide" in found["short-to-long"].text
    assert "1 of 8 seeds diverged" in found["sgd-hot"].text


def test_forest_positions_agree_with_its_own_axis(page: Page, study: dict) -> None:
    ticks = page.id("verdict").all("svg", "ticks")[0].all("text")
    marks = [(percent(tick, "x"), float(tick.text.replace("−", "-"))) for tick in ticks]
    (x0, v0), (x1, v1) = marks[0], marks[-1]

    def value(at: float) -> float:
        return v0 + (at - x0) * (v1 - v0) / (x1 - x0)

    for arm in study["arms"][1:]:
        row, one = rows(page)[arm["name"]], arm["comparison"]
        line = row.all("line", "whisker")[0]
        assert [value(percent(line, x)) for x in ("x1", "x2")] == pytest.approx([one["low"], one["high"]], abs=1e-5)
        band, zero = row.all("rect", "margin")[0], row.all("line", "zero")[0]
        left = percent(band, "x")
        edges = [value(left), value(left + percent(band, "width")), value(percent(zero, "x1"))]
        assert edges == pytest.approx([-0.02, 0.02, 0], abs=1e-5)
        pairs = zip(study["arms"][0]["values"], arm["values"])
        gains = [base - mine for base, mine in pairs if mine is not None]
        assert [value(percent(dot, "cx")) for dot in row.all("circle", "dot")] == pytest.approx(gains, abs=1e-5)


def test_interval_beyond_the_axis_is_an_arrow_and_keeps_its_numbers(lean: dict) -> None:
    lean["arms"][4]["comparison"] |= {"difference": -3.2, "low": -4.0, "high": -2.4}
    row = rows(Page(render(lean)))["sgd-hot"]
    assert "−3.200 [−4.000, −2.400]" in row.text
    line = row.all("line", "whisker")
    assert [percent(line[0], "x1"), percent(line[0], "x2")] == [0, 0]
    assert len(line) == 1  # neither cap: the interval ends nowhere on this axis


def test_interval_without_ends_runs_over_the_whole_axis(lean: dict) -> None:
    lean["arms"][3]["comparison"] |= {"low": None, "high": None}
    row = rows(Page(render(lean)))["short-to-long"]
    assert "[−∞, +∞]" in row.text
    (line,) = row.all("line", "whisker")
    assert [percent(line, "x1"), percent(line, "x2")] == [0, 100]
    assert len(row.all("path", "end")) == 3  # an arrow to either side, and the middle


def test_diverged_runs_of_the_baseline_are_told_beside_its_mean(lean: dict) -> None:
    lean["arms"][0]["values"][2] = None
    assert Page(render(lean)).id("verdict").text.count("1 of 8 seeds diverged") == 2  # of sgd-hot, and of the baseline


def test_a_panel_of_tuning_says_what_would_bracket_it(study: dict) -> None:
    study["arms"][4]["tuning"]["advice"] = "more tuning trials"
    assert "on the edge of what was tried: more tuning trials." in Page(render(study)).id("sensitivity").text
    del study["arms"][4]["tuning"]["advice"]
    assert "on the edge of what was tried: tune over a wider range." in Page(render(study)).id("sensitivity").text


def test_lamps_tell_state_in_words_and_link_down(page: Page, study: dict) -> None:
    lamps = page.id("trust").all("li")
    for lamp, given in zip(lamps, study["lamps"], strict=True):
        word = "fine" if given["ok"] else "look"
        assert f"{given['name']}: {word}" in lamp.all(css="title")[0].text
        assert given["text"] in lamp.text
        assert lamp.all("a")[0].attributes["href"] == given["link"]
    assert study["one_seed_sentence"] in page.id("trust").text
    assert "Holds at: 0.10 M parameters, 300k tokens. Not tested beyond." in page.id("trust").text


def test_every_edit_and_every_changed_schedule_is_shown(page: Page, study: dict) -> None:
    section = page.id("differs")
    for arm in study["arms"][1:]:
        for edit in arm["diff"]:
            assert all(edit[key] in section.text for key in ("path", "from", "to"))
    drawn = [
        (figure.all(css="arm")[0].text, figure.all("code")[0].text) for figure in section.all("figure", "schedule")
    ]
    changed = ["optimizer.lr", "optimizer.lr", "mixture.code", "optimizer.lr"]
    assert drawn == list(zip(["muon-cosine", "adamw-wsd", "short-to-long", "sgd-hot"], changed))


def test_schedule_line_has_the_values_really_used(page: Page, study: dict) -> None:
    figure = page.id("differs").all("figure", "schedule")[1]
    points = figure.all("polyline", "line")[0].attributes["points"].split()
    top = float(figure.all(css="top")[0].text)
    drawn = [top * (1 - float(point.split(",")[1]) / 100) for point in points]
    assert drawn == pytest.approx(study["arms"][2]["schedules"][0]["values"], abs=1e-4 * top)


def test_cost_table_has_side_passes_and_tuning_apart(page: Page, study: dict) -> None:
    table = page.id("cost").all("table")[0]
    heading = [cell.text for cell in table.all("thead")[0].all("th")]
    muon = dict(
        zip(heading, [cell.text for cell in table.all("tbody")[0].all("tr")[1].children if isinstance(cell, Node)])
    )
    cost = study["arms"][1]["cost"]
    assert muon["FLOPs"] == f"{cost['flops'] / 1e9:.0f}G"
    assert muon["side FLOPs"] == f"{cost['side_flops'] / 1e9:.3g}G"
    assert (muon["steps"], muon["tokens"], muon["cost"]) == ("1172", "300k", "1.08x")
    assert muon["peak memory"] == "212 MiB"


def test_tuning_table_has_every_trial(page: Page, study: dict) -> None:
    table = page.id("sensitivity").all("table")[0].all("tbody")[0].all("tr")
    expected = []
    for arm in study["arms"]:
        for trial in arm["tuning"]["trials"]:
            metric = "diverged" if trial["diverged"] else f"{trial['metric']:.3f}"
            setting = f"*.lr.peak = {trial['values']['*.lr.peak']:.4g}"
            expected.append([arm["name"], setting, metric, "best" if trial["chosen"] else ""])
    assert [[cell.text for cell in row.children if isinstance(cell, Node)] for row in table] == expected


def test_curves_and_trials_of_a_test_metric_are_called_validation(study: dict) -> None:
    study["metric"] = "test/loss"
    study["arms"][0]["tuning"]["chosen_values"] = {"*.lr.peak": 0.0042}
    page = Page(render(study))
    assert "Curves show val/loss: the verdict’s test/loss is read once, at the end." in page.id("curves").text
    assert "improvement in test/loss" in page.id("verdict").text
    sensitivity = page.id("sensitivity")
    assert "used 0.0042" in sensitivity.all("figure")[0].text
    assert sensitivity.all("table")[0].all("th", "number")[0].text == "val/loss"
    specs = page.charts["specs"]
    titles = {
        key: json.dumps(specs[key]).count("test/loss") for key in ("curves/tokens/linear", "difference/step", "cost")
    }
    assert titles["cost"] > 0
    assert titles["curves/tokens/linear"] == titles["difference/step"] == 0


def test_inside_is_labelled_by_what_its_x_counts(lean: dict) -> None:
    ends = {"a": 1.0, "b": 1172, "c": 4600, "d": 299_000, "e": 1e9}
    lean["arms"][0]["inside"] = {name: {"x": [0, end], "value": [1, 2]} for name, end in ends.items()}
    specs = Page(render(lean)).charts["specs"]
    titles = [specs[f"inside/{name}"]["encoding"]["x"]["axis"]["title"] for name in ends]
    assert titles == ["fraction of the run", "steps", "samples", "tokens", None]


def test_best_on_the_edge_is_said(page: Page) -> None:
    captions = [figure.text for figure in page.id("sensitivity").all("figure")]
    warned = ["on the edge" in caption for caption in captions]
    assert warned == [False] * 4 + [True, False]


def test_failures_name_arm_seed_and_reason(page: Page) -> None:
    (row,) = page.id("failures").all("tbody")[0].all("tr")
    assert row.text == "sgd-hot5diverged: loss not finite at step 504 of 1172"


def test_notes_stand_with_the_failures(lean: dict) -> None:
    lean["notes"] = ["the first one was stopped twice", EVIL]
    lean["arms"][1]["reused"] = 3
    notes = Page(render(lean)).id("failures").all("p", "note")
    reused = "muon-cosine: 3 of its runs reused from before."
    assert [note.text for note in notes] == [reused, *lean["notes"]]


def test_seed_without_a_value_is_listed_even_if_nobody_says_why(lean: dict) -> None:
    lean["arms"][4]["failures"] = []
    (row,) = Page(render(lean)).id("failures").all("tbody")[0].all("tr")
    assert row.text == "sgd-hot5no final value"


def test_seed_table_tells_whose_seed_turns_the_verdict(lean: dict) -> None:
    lean["arms"][1]["comparison"]["leave_one_out"] = ["better"] * 3 + ["undecided"] + ["better"] * 4
    lean["arms"][4]["comparison"]["leave_one_out"] = ["worse"] * 5 + ["undecided", "worse"]  # seven pairs: no seed 5
    table = Page(render(lean)).id("seeds").all("table")[0].all("tbody")[0].all("tr")
    assert "without seed 3: undecided" in table[1].text
    assert "unchanged without any one seed" in table[2].text
    assert "without seed 6: undecided" in table[4].text


def test_undecided_arm_gets_its_command_and_price(page: Page, study: dict) -> None:
    take = page.id("take")
    assert "short-to-long: about 60 s of runs" in take.text
    assert page.id("decide").text == study["decide_command"]
    assert page.id("command").text == "regimes demo"
    assert study["workload"]["fingerprint"] in take.text


# --- safety -------------------------------------------------------------------------------------------------


def test_hostile_name_stays_text(evil_page: Page) -> None:
    assert evil_page.root.all("b") == []
    assert [node for node in evil_page.root.all() if "onclick" in node.attributes] == []
    assert EVIL in rows(evil_page)
    assert EVIL in evil_page.id("verdict").all("p")[0].text
    assert EVIL in evil_page.charts["arms"]
    labels = [node.attributes["aria-label"] for node in evil_page.root.all("svg") if "aria-label" in node.attributes]
    assert any(label.startswith(EVIL) for label in labels)


def test_hostile_name_changes_no_tag(lean_page: Page, evil_page: Page) -> None:
    shape = [(node.tag, sorted(node.attributes)) for node in lean_page.root.all()]
    assert [(node.tag, sorted(node.attributes)) for node in evil_page.root.all()] == shape


def test_lamp_links_only_to_anchors_of_the_page(lean: dict) -> None:
    lean["lamps"][0]["link"] = "javascript:alert(1)"
    lean["lamps"][1]["link"] = "#nowhere"
    lamps = Page(render(lean)).id("trust").all("li")
    assert [len(lamp.all("a")) for lamp in lamps] == [0, 0, 1, 1, 1]


def test_page_loads_nothing(page: Page) -> None:
    loading = {"src", "srcset", "poster", "action", "formaction", "background", "xlink:href"}
    attributes = [(node.tag, key, value) for node in page.root.all() for key, value in node.attributes.items()]
    assert [one for one in attributes if one[1] in loading] == []
    hrefs = {value.split(",")[0] for _, key, value in attributes if key == "href" and not value.startswith("#")}
    assert hrefs == {"data:text/plain;charset=utf-8"}
    assert page.root.all("link") == page.root.all("img") == page.root.all("iframe") == []
    style = page.root.all("style")[0].raw
    assert "url(" not in style
    assert "@import" not in style


def test_policy_lets_only_these_two_scripts_run(page: Page) -> None:
    (policy,) = [n.attributes["content"] for n in page.root.all("meta") if "http-equiv" in n.attributes]
    own = [node for node in page.root.all("script") if "type" not in node.attributes]
    scripts = [own[0].raw, page.unpack("vega")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(own) == 1
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';")
    assert "unsafe-eval" not in policy


def test_one_copy_of_vega_and_less_than_a_megabyte(page: Page) -> None:
    assert len(page.html.encode()) < 1_000_000
    assert "vegaEmbed" in page.unpack("vega")
    assert [node.attributes["id"] for node in page.root.all("script") if "id" in node.attributes] == ["vega", "charts"]


# --- form ---------------------------------------------------------------------------------------------------


def test_tags_balance_ids_are_unique_and_anchors_lead_somewhere(page: Page) -> None:
    assert page.unbalanced == []
    ids = [node.attributes["id"] for node in page.root.all() if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    anchors = {n.attributes["href"][1:] for n in page.root.all("a") if n.attributes["href"].startswith("#")}
    assert anchors <= set(ids)
    assert len(anchors) == 11  # ten sections and the skip link


def test_keyboard_and_screen_reader_find_their_way(page: Page) -> None:
    assert page.root.all("body")[0].all("a")[0].text == "Skip to the verdict"
    for box in page.root.all("div", "scroll"):
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]
    for label in page.root.all("label"):
        assert label.all("input")
        assert label.text
    assert len(page.root.all("label")) == len(page.root.all("input"))
    assert all(node.attributes["aria-label"] for node in page.root.all("div", "chart"))
    assert [node.tag for node in page.root.all() if node.tag in ("h1", "h2")] == ["h1"] + ["h2"] * 10
    assert all(cell.attributes["scope"] for cell in page.root.all("th"))


def test_both_modes_and_every_hue_have_their_colors(page: Page) -> None:
    style = page.root.all("style")[0].raw
    light, dark = (set(re.findall(r"--([\w-]+):", part)) for part in style.split("prefers-color-scheme: dark")[:2])
    used = set(re.findall(r"var\(--([\w-]+)\)", style)) - {"hue", "tone"}
    assert used <= light
    assert light <= dark


def test_every_chart_on_the_page_can_be_drawn(page: Page) -> None:
    import vl_convert

    charts = page.charts
    units = [n.attributes["value"] for n in page.id("curves").all("input") if n.attributes["name"] == "x"]
    assert units == ["step", "tokens", "flops", "seconds"]
    keys = set()
    for node in page.root.all("div", "chart"):
        for unit in units:
            for scale in ("linear", "log"):
                keys.add(node.attributes["data-chart"].replace("{x}", unit).replace("{y}", scale))
    assert keys == set(charts["specs"])
    assert {name for spec in charts["specs"].values() for name in spec["tables"]} == set(charts["tables"])
    for key in ("curves/flops/log", "difference/tokens", "sensitivity/4/*.lr.peak", "seeds/4", "cost"):
        spec = dict(charts["specs"][key])
        columns = {name: charts["tables"][name] for name in spec.pop("tables")}
        spec["datasets"] = {name: [dict(zip(one, row)) for row in zip(*one.values())] for name, one in columns.items()}
        svg = vl_convert.vegalite_to_svg(spec | {"width": 400}, config=charts["themes"]["dark"])
        assert svg.count("<path") > 8, key


def test_the_forest_says_what_widened_its_intervals(page: Page, lean_page: Page) -> None:
    tuned, untuned = (p.root.all("figure", "forest")[0].all("figcaption")[0].text for p in (page, lean_page))
    assert "by what the luck of 5 tuning trials may have added" in tuned
    assert "tuning" not in untuned


def test_a_place_that_one_regime_lacks_is_said(lean: dict) -> None:
    lean["arms"][1]["diff"] = [{"path": "adapt.optimizer", "from": None, "to": "MeZO(lr=0.01)"}]
    text = Page(render(lean)).id("differs").text
    assert "(nothing)" in text
    assert "MeZO(lr=0.01)" in text
