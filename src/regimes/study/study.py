"""A study: the verdicts, and the forms in which a person reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regimes.core import display
from regimes.core.files import write_json

if TYPE_CHECKING:  # a study that is read needs nothing of what made it, torch least of all
    from regimes.study.arms import Arm
    from regimes.study.one_run import Lender
    from regimes.study.subject import Described


class Study:
    """Arms compared at equal budget over paired seeds.

    Print it, write its report, or read `to_dict()`: one plain dict holds everything that is shown.
    """

    def __init__(self, facts: dict[str, Any], folder: Path | None = None) -> None:
        self._facts, self.folder = facts, folder

    @classmethod
    def of(
        cls,
        design: Any,
        name: str,
        subject: Described,
        arms: list[Arm],
        command: str | None,
        folder: Path | None,
        notes: list[str],
        noise: Lender | None = None,
    ) -> Study:
        """Judge finished arms; `noise` lends to what has one run each."""
        from regimes.study.facts import facts_of
        from regimes.study.judge import judge

        judge(design, arms)
        for arm in arms:
            if noise is not None and arm.comparison and arm.comparison["n"] < 2:
                arm.comparison["noise"] = noise.lend(arm.name)
        return cls(facts_of(design, name, subject, arms, command, notes), folder)

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study's folder or its study.json."""
        file = Path(path)
        file = file / "study.json" if file.is_dir() else file
        return cls(json.loads(file.read_text()), file.parent)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return self._facts

    def save(self) -> Path | None:
        """Write study.json into the study's folder."""
        if self.folder is None:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "study.json", self._facts)
        return self.folder / "study.json"

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report: one file, offline."""
        from regimes.report import write

        target = Path(path) if path is not None else (self.folder or Path(".")) / "report.html"
        return write(self._facts, target)

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict of each arm but the baseline."""
        return {arm["name"]: arm["comparison"]["verdict"] for arm in self._facts["arms"] if arm["comparison"]}

    def __str__(self) -> str:
        from regimes.study.table import text

        return text(self._facts)

    def __repr__(self) -> str:
        return f"Study({self._facts['name']!r}: {self._facts['sentence']})"

    _repr_html_ = display.html
