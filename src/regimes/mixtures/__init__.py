"""Mixtures: how much of each named source a step trains on."""

from regimes.mixtures.mixture import Mixture
from regimes.mixtures.skill_it import SkillIt

__all__ = ["Mixture", "SkillIt"]
