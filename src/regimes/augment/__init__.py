"""Augmentations: what happens to a fetched batch, with addressed randomness."""

from regimes.augment.add_noise import AddNoise
from regimes.augment.mask_words import MaskWords

__all__ = ["AddNoise", "MaskWords"]
