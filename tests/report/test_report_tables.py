from __future__ import annotations

import csv
import io
import re

import pytest
from study_fixture import EVIL

from regimes.report import bibtex, csv_table, latex_table, markdown_table, methods_paragraph

HARD = "a|b_{5%} & <b>#1</b> \\x"


def cells(line: str) -> list[str]:
    """A row of a Markdown table, split at the pipes that are not escaped, and read back."""
    parts = [part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]]
    plain = [re.sub(r"\\(.)", r"\1", part) for part in parts]
    return [part.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for part in plain]


def test_markdown_has_a_row_per_arm(study: dict) -> None:
    heading, rule, *body = markdown_table(study).splitlines()
    names = cells(heading)
    assert names == ["arm", "mean val/loss", "sd", "improvement over adamw-cosine (95%)", "verdict", "cost", "note"]
    assert cells(rule) == ["---", "--:", "--:", "--:", "---", "--:", "---"]
    assert len(body) == 5
    for arm, line in zip(study["arms"], body):
        row = dict(zip(names, cells(line)))
        assert row["arm"] == arm["name"]
        assert row["mean val/loss"] == f"{arm['mean']:.3f}" + (" (7 of 8)" if arm["name"] == "sgd-hot" else "")
        assert row["cost"] == f"{arm['cost']['ratio']:.2f}x"
        if arm["comparison"]:
            one = arm["comparison"]
            expected = f"{one['difference']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]".replace("-", "−")
            assert (row["improvement over adamw-cosine (95%)"], row["verdict"]) == (expected, one["verdict"])
    assert cells(body[3])[-1] == "7 more seeds (60 s) would decide"


def test_an_interval_without_ends_says_so(study: dict) -> None:
    study["arms"][1]["comparison"] |= {"low": None, "high": None, "verdict": "undecided"}
    row = cells(markdown_table(study).splitlines()[3])
    assert row[3] == f"{study['arms'][1]['comparison']['difference']:+.3f} [−∞, +∞]"
    assert r"[$-$$\infty$, +$\infty$]" in latex_table(study)


def test_note_column_goes_where_nobody_needs_it(study: dict) -> None:
    del study["arms"][3]
    assert "note" not in cells(markdown_table(study).splitlines()[0])


@pytest.mark.parametrize("name", [HARD, EVIL, "new\nline"])
def test_hard_names_survive_markdown_as_text(study: dict, name: str) -> None:
    study["arms"][2]["name"] = name
    body = markdown_table(study).splitlines()[2:]
    assert len(body) == 5
    assert cells(body[2])[0] == " ".join(name.split())
    assert "<b>" not in body[2]


def test_latex_rows_have_as_many_cells_as_columns(study: dict) -> None:
    study["arms"][2]["name"] = HARD
    lines = latex_table(study).splitlines()
    columns = re.fullmatch(r"\\begin\{tabular\}\{(\w+)\}", lines[0])[1]
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 6
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1
    assert r"a|b\_\{5\%\} \& \textless{}b\textgreater{}\#1\textless{}/b\textgreater{} \textbackslash{}x &" in rows[3]
    assert "−" not in latex_table(study)


def test_csv_reads_back_to_every_value(study: dict) -> None:
    study["arms"][2]["name"] = 'a,"b"'
    rows = list(csv.reader(io.StringIO(csv_table(study))))
    assert rows[0] == ["arm", "seed", "val/loss", "improvement"]
    expected = [
        (arm["name"], seed, value) for arm in study["arms"] for seed, value in zip(study["seeds"], arm["values"])
    ]
    assert [(name, int(seed), float(value) if value else None) for name, seed, value, _ in rows[1:]] == expected
    gains = [float(row[3]) for row in rows[1:] if row[0] == "muon-cosine"]
    pairs = zip(study["arms"][0]["values"], study["arms"][1]["values"])
    assert gains == pytest.approx([base - mine for base, mine in pairs])
    assert [row[2:] for row in rows[1:] if row[:2] == ["sgd-hot", "5"]] == [["", ""]]


def test_bibtex_keys_are_distinct_and_text_is_escaped(study: dict) -> None:
    study["citations"] = [
        {"name": "Muon", "source": "50% & more"},
        {"name": "muon", "source": None},
        {"name": "§", "source": "x"},
    ]
    text = bibtex(study)
    assert re.findall(r"@misc\{([^,]+),", text) == ["muon", "muon-2", "method"]
    assert r"howpublished = {50\% \& more}" in text
    assert text.count("{") == text.count("}")
    study["citations"] = []
    assert bibtex(study) == ""


def test_methods_paragraph_has_what_a_reader_must_know(study: dict) -> None:
    text = methods_paragraph(study)
    for fact in (
        "We trained char_lm on shakespeare (104k parameters) under 5 regimes for 300k tokens",
        "budgets equal in tokens",
        "the same 8 seeds",
        "val/loss (lower is better) with adamw-cosine",
        "Every arm was given 5 tuning trials over *.lr.peak.",
        "simultaneous 95% intervals over 4 comparisons and a margin of 0.02",
        study["sentence"],
        "1 run of sgd-hot ended without a final value, and counted as worse than every other of the two arms compared.",
        "hold at 0.10 M parameters, 300k tokens and were not tested beyond",
        "torch 2.13.0",
    ):
        assert fact in text
    assert "\n" not in text


def test_methods_paragraph_tells_unequal_tuning(study: dict) -> None:
    study["arms"][0]["tuning"] = None
    study["arms"][1]["tuning"]["trials"].pop()
    tuned = "muon-cosine, adamw-wsd, short-to-long and sgd-hot was given 4 to 5 tuning trials"
    assert tuned in methods_paragraph(study)
    for arm in study["arms"]:
        arm["tuning"] = None
    assert "No arm was tuned." in methods_paragraph(study)
