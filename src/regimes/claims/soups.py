"""Model soups on digits: fine-tunings from one start are mixed; networks that began apart are, too."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import regimes as rg
from regimes.core.kinds import Weights
from regimes.study.soups import greedy_soup, score
from regimes.weights import FromRun, Soup

#: Rates of AdamW, each with three orders of the data: 12 ingredients.
_RATES = (3e-4, 1e-3, 3e-3, 1e-2)


def greedy(seed: int) -> tuple[float, float]:
    """Test accuracy of the greedy soup of 12 fine-tunings, and of the best of them on validation data.

    Parameters
    ----------
    seed : int
        Of the pre-training, on rotated digits, and of the orders.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = FromRun(_trained(Path(folder) / "start", seed, 3e-3, "rotated", 600))
        tuned = [FromRun(_trained(Path(folder) / f"{i}", 100 * seed + i, rate, start=start)) for i, rate in _grid()]
        found = greedy_soup(_work(), tuned, "acc", "higher")
        best = max(tuned, key=lambda part: found.scores[repr(part)])
        return _accuracy(found.soup), _accuracy(best)


def apart(seed: int) -> tuple[float, float]:
    """Test accuracy of the best on validation data of 12 networks that began apart, and of their uniform soup.

    Parameters
    ----------
    seed : int
        Of initial weights and orders.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = [FromRun(_trained(Path(folder) / f"{i}", 100 * seed + i, rate, steps=600)) for i, rate in _grid()]
        best = max(made, key=lambda part: score(_work(), part.load())["acc"])
        return _accuracy(best), _accuracy(Soup(made))


def _grid() -> Sequence[tuple[int, float]]:
    return [(place, rate) for place, rate in enumerate(rate for rate in _RATES for _ in range(3))]


def _work() -> rg.Workload:
    return rg.workloads.load("digits_rotated")


def _trained(
    out: Path, seed: int, rate: float, domain: str = "clean", steps: int = 200, start: Weights | None = None
) -> str:
    regime = rg.Regime(
        optimizer=rg.AdamW(lr=rg.Cosine(rate)),
        batch_size=64,
        budget=f"{steps} steps",
        mixture=rg.Mixture(**{domain: 1.0}),
        on_entry=[] if start is None else [rg.StartFrom(start)],
    )
    rg.run(_work(), regime, seed, out=out, progress=False)
    return str(out)


def _accuracy(weights: Weights) -> float:
    return score(_work(), weights.load(), "test")["acc"]
