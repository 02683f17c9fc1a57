"""Guard a training: the same workload at two versions of its code, to the bit or within a margin."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regimes.core.errors import RegimesError
from regimes.core.files import read_json, write_json
from regimes.study.command.values import Values
from regimes.study.compare import compare
from regimes.study.guard import step_time, trace, words
from regimes.study.guard.declared import Question, read
from regimes.study.guard.versions import Version, Versions
from regimes.study.guard.watch.regimes_watch import STRAYS
from regimes.study.study import Study
from regimes.study.tasks import Outcome, Task

#: Exit status by verdict; better is as its file allows.
SAME, DIFFERENT, UNDECIDED = 0, 1, 3


class Guarded:
    """What a guard found: print it, write it as `markdown`, or read `to_dict()`.

    Parameters
    ----------
    facts : dict
    study : Study or None
        The paired runs, where it took some.
    """

    def __init__(self, facts: dict[str, Any], study: Study | None = None) -> None:
        self._facts, self.study = facts, study

    @property
    def verdict(self) -> str:
        """same, better, worse, undecided, or failed where head does not run."""
        return str(self._facts["verdict"])

    @property
    def code(self) -> int:
        """Exit status for scripts: 0 same (or better, if allowed), 1 worse, different or failed, 3 undecided."""
        if self.verdict == "same" or (self.verdict == "better" and self._facts["allow_better"]):
            return SAME
        return UNDECIDED if self.verdict == "undecided" else DIFFERENT

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return self._facts

    def markdown(self) -> str:
        """Return the comment for a pull request."""
        return words.markdown(self._facts)

    def __str__(self) -> str:
        return words.text(self._facts)

    def __repr__(self) -> str:
        return f"Guarded({words.sentence(self._facts)!r})"


def guard(
    file: str | Path,
    *,
    base: str | None = None,
    head: str | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Guarded:
    """Train what a file names at two versions of its code, and say whether anything changed.

    Both versions are copied, and trained in processes of their own. First one run of each, looked at from inside: if
    every step reads and writes the same bits, the answer is there. Else the first step that differs is told, and the
    part of it, and runs over paired seeds say whether the difference matters: the verdict is that of `regimes.compare`.

    Parameters
    ----------
    file : path
        A YAML file with ``workload:``, ``regime:`` (or ``values:`` of a command) and ``guard:``.
    base, head : str, optional
        Revisions of the repository in which the file lies, or folders, instead of the file's. Default base: where the
        branch left main, else the version before; default head: the working tree.
    seeds : int, optional
        How many, instead of the file's.
    out : path, optional
        Where runs are kept; default runs/<name of the file>. Runs that are there are not computed again.
    progress : bool, optional
        As of `regimes.compare`.
    say : callable, optional
        Takes sentences for whoever watches.

    Returns
    -------
    Guarded

    Raises
    ------
    DeclarationError
        Before anything is spent.
    RegimesError
        If the base does not run, or a version imports code that is not its own.
    """
    folder = (Path(out) if out is not None else Path("runs") / Path(file).stem).resolve()
    question = read(file, folder, {"base": base, "head": head, "seeds": seeds})
    versions = Versions(question.path.parent, folder)
    found = _Guard(question, versions, folder, progress, say)
    made = found.judged()
    write_json(folder / "guard.json", made.to_dict())
    return made


class _Guard:
    """One question about two versions."""

    def __init__(
        self, question: Question, versions: Versions, folder: Path, progress: bool | None, say: Callable[[str], None]
    ) -> None:
        settings = question.settings
        self.question, self.versions, self.folder = question, versions, folder
        self.progress, self.say, self.began = progress, say, time.perf_counter()
        self.base = versions.frozen(settings.base or versions.base(), "guard.base")
        self.head = versions.frozen(settings.head, "guard.head")
        for version in (self.base, self.head):
            versions.link(version, settings.links)
        self.work = question.command(folder)
        self.facts: dict[str, Any] = {
            "schema": 1,
            "file": str(question.path),
            "base": {"name": self.base.name, "digest": self.base.digest},
            "head": {"name": self.head.name, "digest": self.head.digest},
            "workload": self.work.name,
            "metric": question.metric,
            "better": question.better,
            "margin": settings.margin,
            "level": settings.level,
            "allow_better": settings.allow_better,
            "bitwise": False,
            "traced": 0,
            "first_difference": None,
            "comparison": None,
            "step_time": None,
            "failure": None,
            "notes": [],
        }

    def judged(self) -> Guarded:
        """Look for the first difference; where there is one, or none can be seen, judge paired runs."""
        if self.base.digest == self.head.digest:
            return self._ended("same", bitwise=True, notes=["base and head are the same code: nothing was trained"])
        self.say(f"seed {self.question.watched_seed} of {self.base.name} and {self.head.name}, step by step")
        first, rows = self._traced(self.base)
        if first.failed:
            raise RegimesError(f"the base ({self.base.name}) does not run: {first.failure}")
        other, theirs = self._traced(self.head)
        self.facts["traced"] = trace.steps(rows)
        if other.failed:
            return self._ended("failed", failure=other.failure)
        place = trace.first_difference(rows, theirs)
        alike = repr(first.metrics) == repr(other.metrics) and first.curve == other.curve
        if place is None and alike and rows:
            return self._ended("same", bitwise=True)
        if place is None and rows:
            place = trace.Place(trace.steps(rows), trace.PARTS["metrics"], "all steps are the same")
        if place is not None:
            self.say(str(place))
            self.facts["first_difference"] = place._asdict()
            self.facts["notes"] += self._unrepeated(rows)
        return self._compared()

    def _unrepeated(self, rows: list[dict[str, Any]]) -> list[str]:
        """Train the base once more: where it does not repeat itself, a first difference says nothing."""
        _, again = self._traced(self.base, self.folder / "again")
        place = trace.first_difference(rows, again)
        if place is None:
            return []
        return [
            f"two runs of the base, both of seed {self.question.watched_seed}, are not the same ({place}): where head first "
            "differs says nothing; let the seed fix every generator"
        ]

    def _compared(self) -> Guarded:
        question, settings = self.question, self.question.settings
        self.say(f"{len(question.seeds)} pairs of runs")
        arms = {"base": self._values(self.base, "time"), "head": self._values(self.head, "time")}
        study = compare(
            self.work, arms, baseline="base", better=question.better, margin=settings.margin, seeds=question.seeds,
            level=settings.level, name=question.path.stem, out=self.folder, progress=self.progress,
        )  # fmt: skip
        base, head = study.to_dict()["arms"]
        if base["failed"]:
            raise RegimesError(f"the base ({self.base.name}) does not run: {base['failures'][0]['what']}")
        if head["failed"]:
            return self._ended("failed", study, failure=head["failures"][0]["what"])
        pairs = [(self._timed(arms["base"], seed), self._timed(arms["head"], seed)) for seed in question.seeds]
        ratio = step_time.ratio_of(pairs, settings.level)
        told = None if ratio is None else ratio._asdict() | {"text": str(ratio)}
        found = head["comparison"]
        return self._ended(found["verdict"], study, comparison=found, step_time=told)

    # -- one run -----------------------------------------------------------------------------------------------------

    def _values(self, version: Version, watch: str) -> Values:
        return self.question.arm(version, self.versions.inner, self.versions.root, watch)

    def _traced(self, version: Version, store: Path | None = None) -> tuple[Outcome, list[dict[str, Any]]]:
        """Train one run that is looked at step by step, or find it; and read what was seen."""
        store = store or self.folder / "runs"
        values = self._values(version, f"trace:{self.question.settings.steps}")
        outcome = self.work.train(Task(version.name, values, self.question.watched_seed), store)
        if outcome.failed:
            return outcome, []
        run = store / outcome.key
        out = run / read_json(run / "result.json")["attempt"]
        self._refuse_strays(version, out)
        return outcome, trace.read(out)

    def _refuse_strays(self, version: Version, out: Path) -> None:
        """Refuse a version that runs code which is not its own: nothing would be compared.

        Raises
        ------
        RegimesError
            Naming the first such module.
        """
        if (out / STRAYS).is_file():
            module, file = (out / STRAYS).read_text().splitlines()[0].split("\t")
            raise RegimesError(
                f"'{version.name}' imported {module} from {file}, which is not its own copy of the code, so nothing would "
                "be compared; name the folder of that package under guard.pythonpath"
            )

    def _timed(self, values: Values, seed: int) -> step_time.Timed | None:
        return step_time.timed(self.folder / "runs" / self.work.key(Task("", values, seed)))

    def _ended(self, verdict: str, study: Study | None = None, *, notes: Sequence[str] = (), **found: Any) -> Guarded:
        facts = self.facts | found | {"verdict": verdict, "seconds": time.perf_counter() - self.began}
        facts |= {"seeds": self.question.seeds, "watched_seed": self.question.watched_seed}
        facts["notes"] = [*self.facts["notes"], *notes]
        facts["sentence"] = words.sentence(facts)
        return Guarded(facts, study)
