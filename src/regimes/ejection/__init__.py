"""A regime as the plain PyTorch loop that a good engineer would write for it, and the proof that it is the same."""

from regimes.ejection.api import check, eject

__all__ = ["check", "eject"]
