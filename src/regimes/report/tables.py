"""What a person takes into a paper: the table as Markdown, LaTeX and CSV, the methods paragraph, BibTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from .facts import Study, left, lost, others, seed_differences, trained
from .normal import normal
from .text import count, decimals, interval, listing, percent, plain, price, signed, times

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "∞": r"$\infty$",
}
MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def _row(study: Study, arm: Mapping[str, Any]) -> list[str]:
    """Arm, mean, sd, improvement with its interval, verdict, cost, and what would decide."""
    digits, comparison = decimals(study["margin"]), arm["comparison"]
    gone = len(lost(study, arm))
    of = f" ({trained(arm) - gone} of {trained(arm)})" if gone and arm["mean"] is not None else ""
    head = [arm["name"], plain(arm["mean"], digits) + of, plain(arm["sd"], digits)]
    cost = times(arm["cost"]["ratio"])
    if comparison is None:
        return [*head, "baseline" if arm["name"] == study["baseline"] else left(arm) or "not compared", "–", cost, ""]
    gain = signed(comparison["difference"], digits)
    if comparison["difference"] is not None:
        gain += " " + interval(comparison["low"], comparison["high"], digits)
    note = price(comparison["more_seeds"], comparison["more_seconds"])
    return [*head, gain, comparison["verdict"], cost, note]


def _heading(study: Study) -> list[str]:
    gain = f"improvement over {study['baseline']} ({percent(study['level'])})"
    return ["arm", f"mean {study['metric']}", "sd", gain, "verdict", "cost", "note"]


def rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Heading and one row per arm of the main table; the last column is left out where nobody needs it."""
    study = normal(study)
    heading, body = _heading(study), [_row(study, arm) for arm in study["arms"]]
    if not any(row[-1] for row in body):
        return heading[:-1], [row[:-1] for row in body]
    return heading, body


def markdown_table(study: Study) -> str:
    r"""The main table in Markdown.

    Names are escaped: a pipe does not open a column, a tag stays text.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.

    Examples
    --------
    >>> arm = {"name": "a|b", "values": [2.0], "mean": 2.0, "sd": None, "cost": {"ratio": 1.0}}
    >>> study = {"schema": 1, "name": "s", "metric": "loss", "better": "lower", "margin": 0.02,
    ...          "baseline": "a|b", "seeds": [0], "sentence": "", "arms": [arm]}
    >>> print(markdown_table(study).splitlines()[-1])
    | a\|b | 2.000 | – | baseline | – | 1.00x |
    """

    def cell(text: str) -> str:
        escaped = "".join(MARKDOWN.get(c, "\\" + c if c in "\\|*_`[]" else c) for c in text)
        return " ".join(escaped.split())

    heading, body = rows(study)
    align = ["---" if name in ("arm", "verdict", "note") else "--:" for name in heading]
    lines = [[cell(name) for name in heading], align, *([cell(text) for text in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def latex_table(study: Study) -> str:
    """The main table in LaTeX (needs ``booktabs``), everything a person typed escaped.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.
    """
    heading, body = rows(study)
    columns = "".join("l" if name in ("arm", "verdict", "note") else "r" for name in heading)
    lines = [" & ".join(latex(text) for text in row) + r" \\" for row in body]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(latex(name) for name in heading) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def latex(text: str) -> str:
    r"""Text with every character that means something to LaTeX escaped.

    Examples
    --------
    >>> latex("val_loss & 5%")
    'val\\_loss \\& 5\\%'
    """
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def csv_table(study: Study) -> str:
    """Every final value as CSV: arm, seed, metric, improvement over the same seed; empty = diverged."""
    study = normal(study)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", study["metric"], "improvement"])
    for arm in study["arms"]:
        for entry in zip(study["seeds"], arm["values"], seed_differences(study, arm)):
            writer.writerow([arm["name"], *("" if value is None else value for value in entry)])
    return file.getvalue()


def bibtex(study: Study) -> str:
    """One ``@misc`` per cited method, its key made of its name; empty where nothing is cited."""
    study = normal(study)
    entries, used = [], set()
    for citation in study["citations"]:
        stem = re.sub(r"[^a-z0-9]+", "-", str(citation["name"]).lower()).strip("-") or "method"
        key, number = stem, 2
        while key in used:
            key, number = f"{stem}-{number}", number + 1
        used.add(key)
        title, source = latex(str(citation["name"])), latex(str(citation.get("source") or ""))
        entries.append(f"@misc{{{key},\n  title = {{{{{title}}}}},\n  howpublished = {{{source}}}\n}}\n")
    return "\n".join(entries)


def methods_paragraph(study: Study) -> str:
    """What was done, in prose for a paper: workload, budget, seeds, tuning, rule of the verdicts, results.

    Parameters
    ----------
    study
        The plain dict described in `regimes.report`.
    """
    study = normal(study)
    sentences = [
        _setting(study),
        _tuning(study),
        _rule(study),
        study["sentence"],
        _losses(study),
        _place(study),
    ]
    return " ".join(" ".join(sentence.split()) for sentence in sentences if sentence)


def _setting(study: Study) -> str:
    work = study["workload"]
    size = f" ({count(work['parameters'])} parameters)" if work.get("parameters") else ""
    budget = f" for {study['budget']}" if study["budget"] else ""
    equal = f", with budgets equal in {study['equal']}" if study["equal"] else ""
    arms, seeds = len(study["arms"]), len(study["seeds"])
    what = f"{work.get('name') or 'one workload'}{size}"
    return (
        f"We trained {what} under {arms} regime{'s' * (arms != 1)}{budget}{equal}, "
        f"each with the same {seeds} seed{'s' * (seeds != 1)}, and compared {study['metric']} "
        f"({study['better']} is better) with {study['baseline']} seed by seed."
    )


def _tuning(study: Study) -> str:
    tuned = [arm for arm in study["arms"] if (arm["tuning"] or {}).get("trials")]
    if not tuned:
        return "No arm was tuned."
    counts = {len(arm["tuning"]["trials"]) for arm in tuned}
    paths = sorted({path for arm in tuned for path in arm["tuning"]["paths"]})
    number = str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    who = "Every arm" if len(tuned) == len(study["arms"]) else listing([arm["name"] for arm in tuned])
    return f"{who} was given {number} tuning trials over {listing(paths)}."


def _rule(study: Study) -> str:
    compared, margin = len(others(study)), f"{study['margin'] or 0:g}"
    over = f"over {compared} comparison{'s' * (compared != 1)}"
    return (
        f"With simultaneous {percent(study['level'])} intervals {over} and a margin of {margin}, an arm is "
        f"called the same if its interval lies within ±{margin}, better if the interval lies above zero and "
        "reaches the margin, worse in the mirrored case, and undecided otherwise."
    )


def _losses(study: Study) -> str:
    found = [(arm["name"], len(lost(study, arm))) for arm in study["arms"]]
    parts = [f"{number} run{'s' * (number != 1)} of {name}" for name, number in found if number]
    if not parts:
        return ""
    return (
        f"{listing(parts)} ended without a final value, and counted as worse than every other of the two arms compared."
    )


def _place(study: Study) -> str:
    scale, environment = study["workload"].get("scale"), study["environment"]
    versions = [f"{key} {environment[key]}" for key in ("regimes", "torch", "python") if environment.get(key)]
    device = f" on {environment['device']}" if environment.get("device") else ""
    software = f"Software: {', '.join(versions)}{device}." if versions else ""
    held = f"These results hold at {scale} and were not tested beyond." if scale else ""
    return f"{held} {software}".strip()
