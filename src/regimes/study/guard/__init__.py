"""Training regression tests: a workload at two versions of its code."""

from regimes.study.guard.api import Guarded, guard

__all__ = ["Guarded", "guard"]
