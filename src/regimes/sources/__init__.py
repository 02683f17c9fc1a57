"""Sources: examples by index, from tensors, datasets, loaders, iterables and text."""

from regimes.sources.coerce import as_source, as_sources
from regimes.sources.dataset import DatasetSource
from regimes.sources.iterable import IterableSource
from regimes.sources.rollouts import Rollout, Rollouts
from regimes.sources.tensors import Tensors
from regimes.sources.windows import TextWindows

__all__ = [
    "DatasetSource",
    "IterableSource",
    "Rollout",
    "Rollouts",
    "Tensors",
    "TextWindows",
    "as_source",
    "as_sources",
]
