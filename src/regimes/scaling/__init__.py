"""What changes in a regime when a run becomes larger: its batch, its width, its length."""

from regimes.scaling.batch import ScaledBatch, scale_batch

__all__ = ["ScaledBatch", "scale_batch"]
