"""What a study computes from its numbers: intervals, verdicts, tests, power and tuning noise, in one place.

- `verdicts`: improvements per seed, diverged runs, the four words, the outcome of a claim;
- `intervals`: simultaneous paired intervals, and their widening by tuning noise;
- `sign_flip`: a test without a distribution, and the least seeds it takes;
- `power`: what a study can see, and what would decide it;
- `tuning_noise`: which rate a few trials choose, and how much luck there is in that.

Numbers in, numbers out: nothing here knows a run, a regime or torch.
"""

from regimes.study.intervals import (
    Interval,
    open_to_diverged,
    paired_interval,
    simultaneous_paired_intervals,
    unpaired_interval,
    widen,
)
from regimes.study.power import detectable_difference, power, seeds_to_decide
from regimes.study.sign_flip import least_rank_p, least_seeds, refuse_too_few, sign_flip_p
from regimes.study.tuning_noise import Tuned, fit_and_refine, selection_sd
from regimes.study.verdicts import Ranked, claim_outcome, improvement, one_seed_wins, rank_diverged, verdict

__all__ = [
    "Interval",
    "Ranked",
    "Tuned",
    "claim_outcome",
    "detectable_difference",
    "fit_and_refine",
    "improvement",
    "least_rank_p",
    "least_seeds",
    "one_seed_wins",
    "open_to_diverged",
    "paired_interval",
    "power",
    "rank_diverged",
    "refuse_too_few",
    "seeds_to_decide",
    "selection_sd",
    "sign_flip_p",
    "simultaneous_paired_intervals",
    "unpaired_interval",
    "verdict",
    "widen",
]
