"""Declarations of other trainers become regimes."""

from regimes.study.importing.api import Imported, import_training_args

__all__ = ["Imported", "import_training_args"]
