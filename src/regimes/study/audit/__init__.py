"""Past runs grouped into the comparisons that they implied, and what would settle those that are open."""

from regimes.study.audit.api import Audit, audit

__all__ = ["Audit", "audit"]
