"""Diagnosis: what a run that was made was really like."""

from regimes.diagnosis.order import replayed, trained_at
from regimes.diagnosis.weights import weights_at

__all__ = ["replayed", "trained_at", "weights_at"]
