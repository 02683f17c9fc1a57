"""Selectors: which units of a scored batch are trained on, and with what weight."""

from regimes.selectors.high_loss import HighLoss

__all__ = ["HighLoss"]
