"""The weights at any step of a zeroth-order run, from its log of scalars alone."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from regimes.core.errors import DeclarationError, show
from regimes.diagnosis.order import told
from regimes.engine.result import RunResult
from regimes.engine.run import Run
from regimes.optimizers import MeZO


def weights_at(run: str | Path | RunResult, step: int | None = None) -> dict[str, Tensor]:
    """Return the weights of a run of `MeZO` after a number of steps, by parameter name: to the bit what they were.

    Every step is made again from the ``projected_gradient`` and the knobs of its record and the noise at its address;
    no data are read and there is no forward (section 2.1 of the paper). What a skipped step left of rounding is not
    made again.

    Parameters
    ----------
    run : path or RunResult
        A run's folder, or what `regimes.run` returned.
    step : int, optional
        How many steps; default all that there are records of.

    Raises
    ------
    DeclarationError
        If the regime is not one phase of MeZO, or there are no records of so many steps.
    ResumeError
        If a folder is no run's, or does not say how its workload is built.

    References
    ----------
    S. Malladi et al., Fine-Tuning Language Models with Just Forward Passes, NeurIPS 2023, arXiv:2305.17333.

    Examples
    --------
    >>> import regimes as rg
    >>> regime = rg.Regime(optimizer=MeZO(lr=rg.Cosine(0.1)), batch_size=4, budget="20 steps")
    >>> made = rg.run(rg.workloads.load("quadratic"), regime, seed=3)
    >>> found = weights_at(made)
    >>> all(found[name].equal(p) for name, p in made.model.named_parameters())
    True
    """
    workload, regime, seed, records = told(run, None, 0)
    records = records or []
    if len(regime.phases) != 1 or not isinstance(regime.phases[0].optimizer, MeZO):
        raise DeclarationError(f"got {show(regime)}; allowed: a regime of one phase, of MeZO", "regime")
    steps = len(records) if step is None else step
    if not 0 <= steps <= len(records):
        raise DeclarationError(
            f"got {show(step)}; allowed: 0 to {len(records)}, the steps that there are records of", "step"
        )
    again = Run(workload, regime, seed, count_flops=False)
    for number, record in enumerate(records[:steps]):
        if "skipped" not in record:
            rule = again.phase.substitute(record["knobs"]).optimizer
            assert isinstance(rule, MeZO)
            draw = lambda number=number: again.rule_generator("mezo", number)  # noqa: E731
            rule.again(again.parameters, draw, record["projected_gradient"])
    return {name: p.detach() for name, p in again.parameters.items()}
