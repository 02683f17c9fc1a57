"""What notebooks show: everything typed is escaped, every curve is drawn, nothing is loaded."""

import re
from html.parser import HTMLParser

import pytest
import torch
from study_fixture import make_study
from torch import nn

import regimes as rg
from regimes.report.notebook import curve, study_html


class Page(HTMLParser):
    """Balanced tags, texts, attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.points, self.attributes, self.tags = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "polyline":
            self.points.append([tuple(map(float, p.split(","))) for p in dict(attributes)["points"].split()])
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def work(name="tiny"):
    x = torch.arange(80.0).view(20, 4) / 80
    return rg.Workload(model=lambda: nn.Linear(4, 2), train=(x, torch.arange(20) % 2), val=(x, torch.arange(20) % 2),
                       loss=nn.CrossEntropyLoss(), name=name)  # fmt: skip


REGIME = rg.Regime(
    phases=[rg.Phase("one", budget="50%"), rg.Phase("two", budget="50%", average=rg.EMA(0.9))],
    optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="25%")), batch_size=rg.Linear(4, 8), budget="100 samples",
)  # fmt: skip


def offline(text):
    """Nothing is loaded and nothing runs."""
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert "@import" not in text
    assert "url(" not in text
    return page


def test_regime():
    page = offline(REGIME._repr_html_())
    said = " ".join(page.texts)
    assert "Cosine(0.1, warmup='25%')" in said
    assert REGIME.hash in said
    assert len(page.points) == 4
    rate = page.points[0]
    # 81 points from 1 to 159; the highest is where the warm-up ends, a quarter through.
    assert (len(rate), rate[0][0], rate[-1][0]) == (81, 1.0, 159.0)
    assert min(rate, key=lambda point: point[1])[0] == pytest.approx(40.5)


def test_a_schedule_in_steps_is_not_drawn_but_said():
    regime = rg.Regime(optimizer=rg.SGD(lr=rg.Cosine(0.1, warmup="5 steps")), batch_size=4, budget="50 steps")
    page = offline(regime._repr_html_())
    assert page.points == []
    assert "Cosine(0.1, warmup='5 steps')" in " ".join(page.texts)


def test_plan():
    found = rg.plan(work("<b>bold</b>"), REGIME, time=False)
    page = offline(found._repr_html_())
    assert "<b>bold</b>, seed 0" in " ".join(page.texts)
    assert len(page.points) == 4
    groups = rg.Groups([rg.groups.Group("@vectors", rg.SGD(lr=0.1)), rg.groups.Group("*", rg.SGD(lr=0.2))])
    plain = rg.Regime(optimizer=groups, batch_size=4, budget="5 steps")
    assert "@vectors" in offline(rg.plan(work(), plain, time=False)._repr_html_()).texts


def test_run():
    result = rg.run(work("<script>alert(1)</script>"), REGIME, progress=False)
    page = offline(result._repr_html_())
    said = " ".join(page.texts)
    assert "<script>alert(1)</script>, seed 0" in said
    assert f"{result.metrics['val/loss']:.5g}" in said
    assert "at the averaged weights" in said
    assert len(page.points) == 1
    assert len(page.points[0]) == result.steps


def test_study():
    facts = make_study()
    facts["arms"][1]["name"] = "<i>arm</i>"
    facts["arms"][3]["comparison"] |= {"low": None, "high": None}

    class Study:
        def to_dict(self):
            return facts

    page = offline(study_html(Study()))
    said = " ".join(page.texts)
    assert facts["sentence"] in said
    assert "<i>arm</i>" in said
    assert f"{facts['arms'][3]['comparison']['difference']:+.4f} [-inf, +inf]" in said
    assert f"{facts['arms'][4]['mean']:.4g} (7 of 8)" in said
    for arm in facts["arms"]:
        if arm["comparison"]:
            assert re.search(rf"[▲▼=?] {arm['comparison']['verdict']}", said)


def test_curves_pass_over_what_is_not_finite():
    assert curve([], "x") == ""
    assert curve([float("nan")], "x") == ""
    points = Page(curve([1.0, float("inf"), 3.0], 'a"b')).points[0]
    assert [x for x, _ in points] == [1.0, 159.0]
    assert 'aria-label="a&quot;b"' in curve([1.0], 'a"b')
