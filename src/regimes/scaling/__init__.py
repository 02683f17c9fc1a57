"""What changes in a regime when a run becomes larger: its batch, its width, its length; and what small runs tell of that."""

from regimes.scaling.batch import ScaledBatch, scale_batch
from regimes.scaling.proxies import PowerLaw, lr_sensitivity

__all__ = ["PowerLaw", "ScaledBatch", "lr_sensitivity", "scale_batch"]
