"""Fine-tunings from one start may be averaged, networks that began apart may not; a greedy soup finds out which."""

import tempfile
from pathlib import Path

import regimes as rg
from regimes.study.soups import greedy_soup, score

work = rg.workloads.load("digits_rotated")


def train(out, seed, source="clean", rate=1e-2, steps=150, **more):
    """Train on one source of the digits, and return what came of it as a value: the folder's weights."""
    mixture = rg.Mixture(**{source: 1.0})
    regime = rg.Regime(optimizer=rg.AdamW(lr=rate), batch_size=32, budget=f"{steps} steps", mixture=mixture, **more)
    rg.run(work, regime, seed, out=out, progress=False)
    return rg.FromRun(str(out))


def right(weights):
    """Share of the test data that they are right on."""
    return score(work, weights.load(), "test")["acc"]


with tempfile.TemporaryDirectory() as folder:
    runs = Path(folder)
    start = rg.StartFrom(train(runs / "start", 0, "rotated", 3e-3, 300))
    tuned = [train(runs / f"tuned{seed}", seed, on_entry=start) for seed in range(1, 6)]
    apart = [train(runs / f"apart{seed}", seed) for seed in range(1, 6)]
    for name, parts in (("from one start", tuned), ("begun apart", apart)):
        lost = max(map(right, parts)) - right(rg.Soup(parts))
        several = len(greedy_soup(work, parts, "acc", "higher").soup.ingredients) > 1
        print(
            f"{name}: the mean of all loses less than 15 points: {lost < 0.15}; a greedy soup takes several: {several}"
        )
