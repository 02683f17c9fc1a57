"""What the beginning of runs tells of their end: would the best have survived, had the rest been stopped early?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, show
from regimes.engine.result import RunResult
from regimes.study.design import check_better, is_number
from regimes.study.early_rules import Correlation, Keep, kept, overall, within_groups
from regimes.study.early_runs import LEAST, ended_runs, points_of, sweeps_of
from regimes.study.study import Study


@dataclass(frozen=True)
class EarlySignal:
    """What the beginning of runs told of their end.

    Parameters
    ----------
    metric, final : str
        What was read early, and what the runs were ranked by at their end.
    at : float
        Share of each run's steps after which it was read.
    prefer, better : "lower" or "higher"
        Which early values are taken as promising, and which final ones are good.
    configurations, sweeps : int
        Different regimes, and seeds on which they were run.
    correlation : Correlation
        Spearman's, over all configurations; positive where what was promising ended well.
    within : Correlation or None
        The same among configurations that are equal in `path`; None where nothing was asked, or there are too few.
    path : str or None
    keeps : tuple of Keep
        For each share that is kept: how often the best would have been dropped.
    notes : tuple of str
    """

    metric: str
    final: str
    at: float
    prefer: str
    better: str
    configurations: int
    sweeps: int
    correlation: Correlation
    within: Correlation | None
    path: str | None
    keeps: tuple[Keep, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; what is not finite is None."""
        return _finite(asdict(self))

    def __str__(self) -> str:
        seeds = f"{self.sweeps} seed{'s' * (self.sweeps > 1)}"
        said = [
            f"{self.metric} after {self.at:.0%} of the steps ({self.prefer} is promising) against {self.final} at the end: "
            f"{self.configurations} configurations, {seeds}",
            f"Spearman {self.correlation}",
        ]
        if math.isnan(self.correlation.rho):
            nothing = f"all configurations have the same {self.metric} by then: it ranks nothing, and keeps by chance"
            return "\n".join([said[0], f"{nothing}; read it later, after a share of {min(2 * self.at, 0.9):.2g}"])
        if self.path is not None:
            said.append(f"  within equal {self.path}: {self.within or 'too few configurations are equal there'}")
        return "\n".join([*said, *map(str, self.keeps), *(f"note: {note}" for note in self.notes)])


@described(
    Card(
        title="How well the beginning of runs ranks them",
        axes=("phases",),
        source="Pareja et al. 2024, Unveiling the Secret Recipe: A Guide For Supervised Fine-Tuning Small LLMs, arXiv:2412.13337",
        when="Before runs or trials are stopped early by their rank: is that rank worth anything here?",
        cost="reading records of runs that are finished",
        shelf="atlas",
        rows=("sft-small-llm-guide",),
        deviations=(
            "Of the guide's four findings this is the one on early signals; nothing is stopped, only what stopping would have "
            "cost is measured.",
        ),
        claims=(
            Claim(
                "Among 12 fine-tunings at several batch sizes and rates, a smaller gradient after a tenth of the steps goes along "
                "with a higher final accuracy: Spearman's correlation is above 1/2.",
                {"seeds": 6, "margin": 0.05, "scale": "digits, coarse labels then noisy ones, MLP of 2,410 parameters"},
                paper_scale="instruction tuning of 3B to 7B models",
                measure="regimes.claims.early_signal:overall",
            ),
            Claim(
                "It does so among those of one rate, too: the correlation within equal rates is above 0, by 0.2.",
                {"seeds": 6, "margin": 0.2, "scale": "digits, coarse labels then noisy ones, MLP of 2,410 parameters"},
                paper_scale="instruction tuning of 3B to 7B models",
                measure="regimes.claims.early_signal:within_rate",
            ),
        ),
    )
)
def early_signal(
    runs: Study | str | Path | Sequence[RunResult | str | Path],
    metric: str = "loss",
    at: float = 0.1,
    *,
    final: str = "val/loss",
    better: str | None = None,
    prefer: str | None = None,
    within: str | None = None,
    keep: Sequence[float] = (0.75, 0.5, 0.25),
) -> EarlySignal:
    r"""Measure how well the beginning of finished runs ranks them, before anybody stops runs by it.

    Runs of one seed are a sweep over configurations. In each, what a rule of pruning would see after a share `at` of the
    steps is held against the truth: a configuration's final metric, averaged over its seeds. Reported are Spearman's
    correlation, averaged over the sweeps, and for every share that is kept, in how many sweeps the best would have been
    dropped. A correlation over all configurations may be nothing but that of one setting with both sides (a small rate has
    small gradients): `within` compares only configurations that are equal there. Nothing is stopped here.

    Parameters
    ----------
    runs : Study, path, or sequence of RunResult or path
        A study, a folder with runs below it (tuning trials too), or runs. All of one workload and program.
    metric : str
        Of the records: ``loss`` (default), a probe's or ``gradient_norm`` where it was recorded, ``val/...``. Its mean over
        the second half of the steps up to `at`.
    at : float
        Share of a run's steps, in (0, 1). Default 0.1.
    final : str
        A final metric. Default ``val/loss``.
    better : "lower" or "higher"
        Default: what a study of these runs says of the metric, else lower for losses; must be said for anything else.
    prefer : "lower" or "higher"
        Which early values are kept. Default: which are better, by the same rule; of the final metric's early values, on
        whatever data, as `better`.
    within : str, optional
        A path of the regime, such as ``optimizer.lr``.
    keep : sequence of float
        Shares, in (0, 1]. Default 3/4, 1/2, 1/4.

    Returns
    -------
    EarlySignal
        Print it, or read ``to_dict()``.

    Raises
    ------
    DeclarationError
        Fewer than four configurations, a metric that nobody recorded by then, or whose direction nobody says, runs that
        may not be compared.
    ResumeError
        If there are no runs.

    Notes
    -----
    A run that diverged is the worst at the end, and the least promising once its signal is not finite. Intervals of the
    correlation are Bonett and Wright's, :math:`\tanh(\mathrm{artanh}\,\rho \pm z \sqrt{(1 + \rho^2 / 2) / (n - 3)})` with n
    configurations: more seeds make them no narrower. Those of how often the best is dropped are Clopper and Pearson's,
    over seeds.

    References
    ----------
    Pareja et al., "Unveiling the secret recipe: a guide for supervised fine-tuning small LLMs", 2024, arXiv:2412.13337.
    Bonett and Wright, "Sample size requirements for estimating Pearson, Kendall and Spearman correlations", 2000.

    Examples
    --------
    >>> import regimes as rg
    >>> base = rg.Regime(optimizer=rg.SGD(lr=0.2), batch_size=8, budget="40 steps")
    >>> runs = [
    ...     rg.run(rg.workloads.load("quadratic"), base.but({"optimizer.lr": lr}), seed, progress=False)
    ...     for lr in (0.002, 0.005, 0.01, 0.02, 0.05) for seed in range(3)
    ... ]
    >>> found = early_signal(runs, at=0.25, keep=[0.4])
    >>> round(found.correlation.rho, 2), found.keeps[0].dropped, found.keeps[0].sweeps
    (1.0, 0, 3)
    """
    if prefer not in (None, "lower", "higher"):
        raise DeclarationError(f"got {show(prefer)}; allowed: 'lower' or 'higher'", "prefer")
    if not is_number(at) or not 0 < at < 1:
        raise DeclarationError(f"got {show(at)}; allowed: a share of the steps, above 0 and below 1", "at")
    if isinstance(keep, str) or not keep or not all(is_number(share) and 0 < share <= 1 for share in keep):
        raise DeclarationError(f"got {show(keep)}; allowed: shares above 0, at most 1", "keep")
    if better is not None:
        check_better(final, better)
    ended, notes, declared = ended_runs(runs)
    direction = check_better(final, better or declared.get(final))
    try:
        promising = prefer or _promising(metric, declared | {final: direction})
    except DeclarationError:
        points_of(
            ended, metric, at, final, ("lower", direction), within
        )  # a metric that is not there is refused as such
        raise
    points, said = points_of(ended, metric, at, final, (promising, direction), within)
    configurations = {point.configuration for point in points}
    sweeps = sweeps_of(points)
    if not sweeps:
        raise DeclarationError(
            f"got {len(configurations)} configurations; allowed: at least {LEAST} that share a seed", "runs"
        )
    used = {point.configuration for sweep in sweeps for point in sweep}
    if len(used) < len(configurations):
        said.append(f"left out: {len(configurations) - len(used)} configurations that share no seed with enough others")
    return EarlySignal(
        metric, final, float(at), promising, direction, len(used), len(sweeps), overall(sweeps),
        None if within is None else within_groups(sweeps), within,
        tuple(kept(sweeps, float(share), float(at)) for share in keep), (*notes, *said),
    )  # fmt: skip


def _promising(metric: str, declared: Mapping[str, str]) -> str:
    """Which early values promise a good end: those that are better, as a metric's direction is declared."""
    alike = {better for name, better in declared.items() if name.partition("/")[2] == metric.partition("/")[2] != ""}
    try:
        return check_better(metric, declared.get(metric) or (alike.pop() if len(alike) == 1 else None))
    except DeclarationError as why:
        raise DeclarationError(f"{why.message}, as nothing says which {metric} is promising", "prefer") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
