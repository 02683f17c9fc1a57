"""Training until every example is fitted: how long it takes, how far the weights go, at which noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from regimes.core.card import Card, Claim, described
from regimes.core.errors import DeclarationError, show
from regimes.core.regime import Regime
from regimes.engine.observation import Observer
from regimes.engine.run import Run
from regimes.engine.workload import Workload
from regimes.probes.norms import norm
from regimes.probes.unfitted import Unfitted

_SCALE = "perceptron of 128 inputs, alpha 100, batch 8, rates 2^-6 to 2^2, 64 to 512 points"


@dataclass(frozen=True)
class Fitted:
    """What a training until every example is fitted was like.

    Parameters
    ----------
    fitted : bool
        Whether it ended so, and not with its budget.
    steps : int
        Steps that were made; those of trials, and skipped ones, do not count.
    time : float
        t*, the sum of the rates of these steps.
    temperature : float
        T, the mean over the steps of rate / batch size.
    distance, start : float
        Of the trained weights from their beginning, and their norm there.
    metrics : dict of str to float
        Of the judged split, at the end.
    run : Run
        At its end.
    """

    fitted: bool
    steps: int
    time: float
    temperature: float
    distance: float
    start: float
    metrics: dict[str, float]
    run: Run

    @property
    def weight_change(self) -> float:
        """Distance over the norm at the beginning; infinite where that is 0."""
        return self.distance / self.start if self.start > 0.0 else math.inf

    def __str__(self) -> str:
        end = "every example is fitted" if self.fitted else "not fitted at the end of the budget"
        return (
            f"{end}: {self.steps} steps, t* = {self.time:.4g}, T = {self.temperature:.4g}, "
            f"weights changed by {self.weight_change:.4g} of their norm"
        )


@described(
    Card(
        title="Training until every example is fitted",
        axes=("regime", "rates"),
        source="Sclocchi et al. 2023, arXiv:2301.13703",
        when="How does the noise of SGD, rate over batch size, change what is learned, and how long it takes?",
        cost="a forward of all training examples as often as it looks",
        shelf="atlas",
        rows=("sgd-noise-regimes",),
        defaults={"every": "every step, so that it is the first time"},
        deviations=(
            "A regime's budget is an amount: a run does not end on what it finds. This is a loop around one, whose budget is "
            "the most; it is not stored, and not resumed.",
            "Batches are of the declared sampler, by default without an example twice in an epoch; the authors draw each "
            "batch anew.",
            "What the paper finds of deep networks (phase diagrams, T_c as a power of P) is a loop over CenteredOutput's "
            "alpha, rates and sizes; the claims test the perceptron alone.",
        ),
        claims=(
            Claim(
                "The change of the weights grows with the temperature and with the number of points as a power: both slopes "
                "are above 0, and the smaller share of variance explained is above 0.9.",
                {"seeds": 5, "margin": 0.01, "scale": _SCALE},
                paper_scale="perceptrons of 16 to 128 inputs, batch 2, 1,024 to 16,384 points",
                measure="regimes.claims.sgd_noise:weights_grow",
            ),
            Claim(
                "So does the time until all is fitted.",
                {"seeds": 5, "margin": 0.01, "scale": _SCALE},
                paper_scale="perceptrons of 16 to 128 inputs, batch 2, 1,024 to 16,384 points",
                measure="regimes.claims.sgd_noise:time_grows",
            ),
            Claim(
                "With all points in a batch the change of the weights does not hang on the rate: its slope is below 0.1.",
                {"seeds": 5, "margin": 0.05, "scale": _SCALE},
                paper_scale="not in the paper, whose small temperatures have no effect",
                measure="regimes.claims.sgd_noise:full_batch_is_flat",
            ),
        ),
    )
)
def until_fitted(workload: Workload, regime: Regime, seed: int = 0, *, every: Any = "1 steps") -> Fitted:
    r"""Train until the loss of every training example is exactly 0, or the budget is used up.

    With rates :math:`\eta_s` and batch sizes :math:`B_s` of the steps s = 1 ... n that were made

    .. math:: t^* = \sum_s \eta_s, \qquad T = \frac1n \sum_s \frac{\eta_s}{B_s}, \qquad
              \frac{\lVert w_{t^*} - w_0 \rVert}{\lVert w_0 \rVert}

    Parameters
    ----------
    workload : Workload
        With a loss that can become 0, such as `Hinge`.
    regime : Regime
        Of one phase; its budget is the most.
    seed : int
    every : Duration
        How often it looks whether all is fitted. Default every step.

    Returns
    -------
    Fitted

    Raises
    ------
    DeclarationError
        For several phases, or a rule without a rate of its own (Groups).
    RunFailed
        If training diverges.

    References
    ----------
    A. Sclocchi, M. Geiger and M. Wyart, Dissecting the Effects of SGD Noise in Distinct Regimes of Deep Learning, ICML
    2023, arXiv:2301.13703.

    Examples
    --------
    >>> import regimes as rg
    >>> work = rg.workloads.load("perceptron", inputs=8, examples=16)
    >>> regime = rg.Regime(optimizer=rg.SGD(lr=0.5), batch_size=4, budget="5000 steps", on_entry=rg.CenteredOutput(10.0))
    >>> found = rg.until_fitted(work, regime.but(loss=rg.Hinge(10.0)))
    >>> found.fitted, found.time == 0.5 * found.steps, found.temperature
    (True, True, 0.125)
    """
    if len(regime.phases) > 1:
        raise DeclarationError(f"got {len(regime.phases)} phases; allowed: one", "regime")
    declared = regime.phases[0].optimizer
    if not hasattr(declared, "lr"):
        raise DeclarationError(f"got {show(declared)}, which has no 'lr'; allowed: one rule for all", "optimizer")
    run = Run(workload, regime, seed, count_flops=False)
    observer = Observer(run, [Unfitted(every=every)])
    begun = {name: p.detach().clone() for name, p in run.parameters.items()}
    time = temperature = 0.0
    steps, fitted = 0, False
    while not run.finished and not fitted:
        observer.before()
        size = len(run.frame.plans[0])
        record = observer.noted(run.step())
        if "trial" in record.signals or "skipped" in record.signals:
            continue
        rate = float(record.knobs.get("optimizer.lr", declared.lr))
        steps, time, temperature = steps + 1, time + rate, temperature + rate / size
        if "probe_error" in record.signals:
            raise DeclarationError(record.signals["probe_error"], "workload")
        fitted = record.signals.get("unfitted") == 0.0
    split = workload.judged_split()
    return Fitted(
        fitted,
        steps,
        time,
        temperature / max(steps, 1),
        norm(p.detach() - begun[name] for name, p in run.parameters.items()),
        norm(begun.values()),
        run.validation.measure(split) if split in workload.sources else {},
        run,
    )
