"""The HTML report of a comparison: one offline file, and its tables, paragraph and figures to take away.

Everything here reads one plain dict (JSON in memory), so a report can be written again years later from a
stored study alone::

    {"schema": 1, "name", "created" (ISO time), "command", "decide_command" | None,
     "workload": {"name", "parameters", "fingerprint", "scale"},
     "metric", "better": "lower" | "higher", "margin", "equal", "budget", "level", "baseline", "seeds": [int],
     "sentence", "one_seed_sentence" | None,
     "arms": [{"name", "regime",
       "diff": [{"path", "from", "to"}], "schedules": [{"path", "fraction": [], "values": []}],
       "values": [one per seed, None where it diverged], "mean", "sd" (both of what ended in a number), "repeats",
       "comparison": None | {"difference" (improvement: positive = better), "low", "high", "verdict",
         "p_sign_flip", "more_seeds" | None, "more_seconds" | None, "correlation" | None,
         "leave_one_out": [verdict without each seed], "one_observation": seeds bound nothing},
       "cost": {"steps", "samples", "tokens", "flops", "side_flops", "seconds", "peak_memory" | None,
         "tuning_flops", "tuning_seconds", "ratio"},
       "curves": [{"seed", "value": [],
         "x": {"step": [], "samples": [], "tokens": [], "flops": [], "seconds": []},
         "low": [], "high": [], "of" (only of a curve that was thinned)}],
       "tuning": None | {"paths": [], "trials": [{"values": {}, "metric", "diverged", "chosen"}], "on_edge",
         "best_of_k": [], "advice": what would bracket the best trial | None},
       "inside": {name: {"x": [], "value": [], "of" (only of one that was thinned)}}, "failures": [{"seed", "what"}],
       "absent": [seeds it was not trained on],
       "rungs": [{"seeds", "mean", "diverged", "place", "of", "stays"}] of a study that is halved}],
     "lamps": [{"name", "ok", "text", "link"}],
     "slices": [{"source", "arms": {name: {"difference", "low", "high"}}}],
     "environment": {}, "citations": [{"name", "source"}], "notes": [str], "watched": str}

``watched`` is the metric that curves and tuning trials are of: by default ``metric``, with ``val/`` for ``test/``
(test data is read once, at the end). A tuning may also have ``chosen_values`` {path: value used}, an arm
``reused``, the number of its runs that were there before.

A curve that was thinned says ``of`` how many points; it keeps some at equal distances, the first and the last among them,
each with the lowest (``low``) and the highest (``high``) value since the one before. A course inside keeps its extremes.

A lamp's ``link`` is one of the page's anchors: ``#trust #differs #curves #sensitivity #seeds #cost #inside
#slices #failures #take``. Lists may be empty and what is not known may be ``None``: a section then says so.
"""

from __future__ import annotations

from .export import figures
from .page import render, write
from .tables import bibtex, csv_table, latex_table, markdown_table, methods_paragraph

__all__ = [
    "bibtex",
    "csv_table",
    "figures",
    "latex_table",
    "markdown_table",
    "methods_paragraph",
    "render",
    "write",
]
