"""The weights of a finished run, wherever weights may stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from regimes.core.card import Card
from regimes.core.component import fixed
from regimes.core.errors import DeclarationError
from regimes.core.kinds import Weights
from regimes.core.registry import register


@register
class FromRun(Weights):
    """The final weights of a finished run.

    They may be a teacher, a start, an ingredient of a soup. What that run has spent counts as work of the run that
    uses it, and the content of its file is part of that run's identity.

    Parameters
    ----------
    path : str
        The run's folder.
    which : "judged" or "raw"
        The weights at which its metrics were measured (averaged ones, where there is an averager), or the trained ones.
    charge : bool
        Whether its work is charged. Default True.

    Raises
    ------
    DeclarationError
        Before anything is spent, if there is no finished run.

    Examples
    --------
    >>> FromRun("runs/teacher")
    FromRun('runs/teacher')
    >>> FromRun("runs/nowhere").load()
    Traceback (most recent call last):
    ...
    regimes.core.errors.DeclarationError: path: got 'runs/nowhere', which holds no finished run; allowed: the folder of one
    """

    path: str = fixed()
    which: Literal["judged", "raw"] = fixed("judged")
    charge: bool = fixed(True)

    card = Card(
        title="Weights of a finished run",
        axes=("phases",),
        source="this package",
        when="A teacher, a start, an ingredient: what another run has learned.",
        cost="what that run has spent, unless charge=False",
    )

    @classmethod
    def example(cls) -> list[FromRun]:
        """A folder that need not be there: nothing is read before a run begins."""
        return [cls("runs/teacher"), cls("runs/teacher", "raw", charge=False)]

    def file(self) -> Path:
        """Where the weights lie: those that were trained are apart only where others were judged."""
        folder = Path(self.path) / "final"
        if not (Path(self.path) / "result.json").is_file():
            raise DeclarationError(
                f"got '{self.path}', which holds no finished run; allowed: the folder of one{_near(Path(self.path))}",
                "path",
            )
        raw = folder / "raw.safetensors"
        return raw if self.which == "raw" and raw.is_file() else folder / "model.safetensors"

    def load(self) -> Mapping[str, Tensor]:
        """Return parameters and buffers by name."""
        from safetensors.torch import load_file

        # Copies, where torch wants its memory: as they lie in the file, a product may differ in the last bit from that of the
        # copies which a resumed run has.
        return {name: value.clone() for name, value in load_file(self.file()).items()}

    def flops(self) -> float:
        """Return what the run has spent, 0 where it is not charged."""
        self.file()
        work: Any = json.loads((Path(self.path) / "result.json").read_text())["work"]
        return float(work["flops"] + work["side_flops"]) if self.charge else 0.0

    def digest(self) -> str:
        """Return the digest of the file."""
        return hashlib.sha256(self.file().read_bytes()).hexdigest()[:16]


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    found = sorted(str(p.parent) for p in path.parent.glob("*/result.json"))[:3]
    return f", for example {', '.join(found)}" if found else ""
