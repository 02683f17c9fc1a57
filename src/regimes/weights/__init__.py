"""Weights as values: of finished runs, and mixed from several."""

from regimes.weights.from_run import FromRun
from regimes.weights.soup import Soup

__all__ = ["FromRun", "Soup"]
