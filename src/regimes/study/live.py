"""A live table that fills up while a study runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from regimes.study.table import duration

#: Seconds between two lines of how far runs are, where there is no live table.
OFTEN = 10.0


class Live:
    """Shows every arm's trials and seeds as they come, with the time left.

    Parameters
    ----------
    design : Design
    name : str
    wanted : bool or None
        Whether to show anything; None: a live table where stderr is a terminal, plain lines elsewhere.
    """

    def __init__(self, design: Any, name: str, wanted: bool | None) -> None:
        self.design, self.name = design, name
        self._tty = sys.stderr.isatty()
        self._quiet = wanted is False
        self._live: Any = None
        self._told, self._made = 0.0, 0.0

    def __enter__(self) -> Live:
        if self._tty and not self._quiet:
            from rich.console import Console
            from rich.live import Live as RichLive

            self._live = RichLive(
                self._table([], 1, 0.0),
                console=Console(stderr=True, markup=False),
                refresh_per_second=4,
                transient=True,
            )
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def say(self, text: str) -> None:
        """Say one sentence beside the table."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.console.print(text, highlight=False)
            return
        print(text, file=sys.stderr, flush=True)

    def show(self, outcomes: Sequence[Any], total: int, elapsed: float) -> None:
        """Show what has come so far."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(self._table(outcomes, total, elapsed))
            return
        latest, there = outcomes[-1], sum(outcome.reused for outcome in outcomes)
        if latest.reused:
            if len(outcomes) == total:
                self.say(f"[{total:3d}/{total}] {there} runs were there already")
            return
        if there and len(outcomes) == there + 1:
            self.say(f"[{there:3d}/{total}] runs were there already")
        metric = self.design.tuning_metric if latest.task.trial is not None else self.design.metric
        said = f"{metric} {latest.metrics.get(metric, math.nan):.4f}"
        if latest.failure is not None:
            said = f"{'diverged' if latest.diverged else 'failed'}: {latest.failure}"
        left = self._left(outcomes, total, elapsed)
        print(
            f"[{len(outcomes):3d}/{total}] {latest.task.arm:24s} {latest.task.what:9s} {said}   {left} left",
            file=sys.stderr,
            flush=True,
        )

    def wait(self, outcomes: Sequence[Any], total: int, elapsed: float, under_way: float) -> None:
        """Show how far those are that have not come: as many runs as what has been done of them makes."""
        if self._quiet:
            return
        self._note(outcomes, under_way)
        if self._live is not None:
            self._live.update(self._table(outcomes, total, elapsed, under_way))
        elif elapsed > self._told + OFTEN:
            self._told = elapsed
            share = (len(outcomes) + under_way) / total
            left = self._left(outcomes, total, elapsed, under_way)
            print(f"[{len(outcomes):3d}/{total}] {share:.0%} of all steps   {left} left", file=sys.stderr, flush=True)

    def _left(self, outcomes: Sequence[Any], total: int, elapsed: float, under_way: float = 0.0) -> str:
        """How long the rest will take, from what has been trained now: runs that were there already took no time.

        Runs that are trained side by side end together: when the first of them ends, what is known of the others counts.
        """
        there = self._note(outcomes, under_way)
        return duration(elapsed / self._made * (total - there - self._made)) if self._made else "..."

    def _note(self, outcomes: Sequence[Any], under_way: float) -> int:
        """Note how much has been trained now, and return how many runs were there already."""
        there = sum(outcome.reused for outcome in outcomes)
        self._made = max(self._made, len(outcomes) - there + under_way)
        return there

    def _table(self, outcomes: Sequence[Any], total: int, elapsed: float, under_way: float = 0.0) -> Any:
        from rich.table import Table

        done, left = len(outcomes), self._left(outcomes, total, elapsed, under_way)
        going = f" and {under_way / (total - done):.0%} of the others" if under_way and total > done else ""
        made = Table(title=f"{self.name}: {done} of {total} runs{going}, {left} left", title_justify="left")
        for column in (
            "arm",
            "tuning",
            "seeds",
            f"mean {self.design.metric}",
            f"gap to {self.design.baseline}",
        ):
            made.add_column(column)
        by_arm: dict[str, list[Any]] = {name: [] for name in self.design.names}
        for outcome in outcomes:
            by_arm.setdefault(outcome.task.arm, []).append(outcome)
        finals = {name: self._finals(mine) for name, mine in by_arm.items()}
        for name in self.design.names:
            trials = [o for o in by_arm[name] if o.task.trial is not None]
            best = _best([o.metrics.get(self.design.tuning_metric, math.nan) for o in trials], self.design.better)
            tuning = f"{len(trials)}/{self.design.trials}" + (f"  best {best:.4f}" if best is not None else "")
            values = list(finals[name].values())
            mean = f"{np.mean(values):.4f}" if values else ""
            made.add_row(name, tuning, f"{len(values)}/{len(self.design.seeds)}", mean, self._gap(finals, name))
        return made

    def _finals(self, outcomes: Sequence[Any]) -> dict[int, float]:
        ended = [o for o in outcomes if o.task.trial is None and not o.task.chooses and not o.failed]
        return {o.task.seed: o.metrics.get(self.design.metric, math.nan) for o in ended}

    def _gap(self, finals: dict[str, dict[int, float]], name: str) -> str:
        base = finals[self.design.baseline]
        both = [seed for seed in finals[name] if seed in base]
        if name == self.design.baseline or not both:
            return ""
        sign = -1.0 if self.design.better == "lower" else 1.0
        gaps = [sign * (finals[name][seed] - base[seed]) for seed in both]
        spread = f" ± {np.std(gaps, ddof=1):.4f}" if len(gaps) > 1 else ""
        return f"{np.mean(gaps):+.4f}{spread}"


def _best(values: Sequence[float], better: str) -> float | None:
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return None
    return min(finite) if better == "lower" else max(finite)
