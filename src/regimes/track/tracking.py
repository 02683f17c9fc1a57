"""What a run is tracked by, and under which name: opened with a run, ended with it."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, RegimesError, nearest, show
from regimes.core.files import read_json, write_json
from regimes.track.courier import Courier

#: Trackers by name: where the class is that writes for it.
TRACKERS = {
    "tensorboard": "regimes.track.to_tensorboard:TensorBoard",
    "wandb": "regimes.track.to_wandb:Wandb",
    "mlflow": "regimes.track.to_mlflow:Mlflow",
    "trackio": "regimes.track.to_trackio:Trackio",
}
#: What points can stand over: what is done after their step.
AXES = ("step", "samples", "tokens")
#: What a run's folder says of those who track it.
TRACKED = "tracked.json"
#: Seconds between two looks of a tracker at records that wait to be written.
OFTEN = 1.0


@dataclass(frozen=True)
class Tracking:
    """One tracker of a run.

    Parameters
    ----------
    name : str
        tensorboard, wandb, mlflow or trackio.
    axis : str
        What points stand over: step (the default), samples or tokens.
    home : str, optional
        The folder below which the tracker keeps its files; default the run's own.
    study, arm, trial : optional
        Of a run of a study: group and name under which it is found.

    Raises
    ------
    DeclarationError
        For a tracker that there is not, or that is not installed, and for another axis.

    Examples
    --------
    >>> Tracking("tensorbord")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: track: got 'tensorbord'; did you mean 'tensorboard'?...
    """

    name: str
    axis: str = "step"
    home: str | None = None
    study: str | None = None
    arm: str | None = None
    trial: int | None = None

    def __post_init__(self) -> None:
        if self.name not in TRACKERS:
            raise DeclarationError(f"got {show(self.name)}; {nearest(str(self.name), TRACKERS)}", "track")
        if self.axis not in AXES:
            raise DeclarationError(f"got {show(self.axis)} behind the @; allowed: {', '.join(AXES)}", "track")
        if find_spec(self.name) is None:
            raise DeclarationError(
                f"got '{self.name}', which is not installed here; install it with: pip install {self.name}", "track"
            )

    @property
    def text(self) -> str:
        """As a person writes it."""
        return self.name if self.axis == "step" else f"{self.name}@{self.axis}"

    def of(self, arm: str, trial: int | None) -> Tracking:
        """Return the tracking of one run of a study."""
        return replace(self, arm=arm, trial=trial)

    def __call__(self, session: Any) -> contextlib.AbstractContextManager[Callable[[Any], None]]:
        """Follow the run of a session, in its first process."""
        return self._follow(session) if session.world.first else contextlib.nullcontext(lambda record: None)

    @contextlib.contextmanager
    def _follow(self, session: Any) -> Iterator[Callable[[Any], None]]:
        folder = session.folder.path
        if session.writer is None and self._whole(folder):  # it was finished, and is held
            yield lambda record: None
            return
        courier = Courier(self.name, self._job(session), folder / f"tracked-{self.name}.log")
        _note(folder, self, whole=False, error=None)
        last, word = time.monotonic(), "stopped"

        def tell(record: Any) -> None:
            nonlocal last
            if session.writer is not None and time.monotonic() - last > OFTEN:
                session.writer.flush()
                last = time.monotonic()

        try:
            yield tell
            word = "finished"
        finally:
            if session.writer is not None:
                with contextlib.suppress(RegimesError):  # the run says itself what it could not write
                    session.writer.flush()
            error = courier.end(word)
            if error is not None:
                session.notes.append(error)
            _note(folder, self, whole=word == "finished" and error is None, error=error)

    def _whole(self, folder: Path) -> bool:
        return any(told["whole"] and _tracking(told) == self for told in _told(folder))

    def _job(self, session: Any) -> dict[str, Any]:
        from regimes.track.about import config, rates

        folder, run = session.folder.path, session.run
        key = read_json(folder / "run.json")["key"]
        label = [key, self.study, self.arm, self.trial]
        trial = "" if self.trial is None else f"-trial{self.trial}"
        name = folder.resolve().name if self.arm is None else f"{self.arm}-s{run.seed}{trial}"
        told = {"study": self.study, "arm": self.arm, "trial": self.trial}
        return {
            "kind": "run",
            "tracker": TRACKERS[self.name],
            "home": str(Path(self.home or folder).resolve()),
            "folder": str(folder.resolve()),
            "axis": self.axis,
            "id": hashlib.sha256(repr(label).encode()).hexdigest()[:12],
            "name": name,
            "group": self.study,
            "config": {k: v for k, v in told.items() if v is not None} | config(run),
            "rates": rates(run.regime),
        }

    def verdict(self, study: Any) -> str | None:
        """Write a study's table; return what went wrong."""
        facts = study.to_dict()
        home = Path(study.folder).resolve()
        job = {
            "kind": "verdict",
            "tracker": TRACKERS[self.name],
            "home": str(home),
            "folder": str(home),
            "axis": self.axis,
            "id": hashlib.sha256(f"{home} {facts['name']}".encode()).hexdigest()[:12],
            "name": f"{facts['name']}-verdict",
            "group": self.study,
            "config": {"study": facts["name"], "metric": facts["metric"], "margin": facts["margin"]},
            "columns": ["arm", "mean", "difference", "low", "high", "verdict"],
            "rows": [_row(arm) for arm in facts["arms"]],
            "sentence": facts["sentence"],
        }
        return Courier(self.name, job, home / f"tracked-{self.name}.log").end("finished")


def follower(name: str, axis: str) -> Tracking:
    """Return the tracking that ``name@axis`` asks for."""
    return Tracking(name, axis or "step")


def trackings(track: Any, **about: Any) -> tuple[Tracking, ...]:
    """Return the trackings of a study's runs.

    Parameters
    ----------
    track : str, Tracking, sequence of them, or None
        As of `regimes.compare`.
    **about
        ``home`` and ``study``.
    """
    given: Sequence[Any] = () if track is None else (track,) if isinstance(track, str | Tracking) else tuple(track)
    made = [one if isinstance(one, Tracking) else _of_text(one) for one in given]
    return tuple(replace(one, **about) for one in made)


def _of_text(text: Any) -> Tracking:
    if not isinstance(text, str):
        raise DeclarationError(f"got {show(text)}; allowed: {', '.join(TRACKERS)}", "track")
    name, _, axis = text.partition("@")
    return follower(name, axis)


def tracked(folder: Path) -> list[Tracking]:
    """Return who tracks the run of a folder; a tracker that is no longer installed is left out."""
    found = []
    for told in _told(folder):
        with contextlib.suppress(DeclarationError):
            found.append(_tracking(told))
    return found


def _tracking(told: dict[str, Any]) -> Tracking:
    return Tracking(**{name: value for name, value in told.items() if name not in ("whole", "error")})


def tracked_whole(trackings: Sequence[Tracking], study: Any, folders: Sequence[Path]) -> list[str]:
    """Give the trackers of a study its verdicts; return a sentence for each that does not hold all of it."""
    said = []
    for tracking in trackings:
        broken = [told["error"] for folder in dict.fromkeys(folders) for told in _told(folder)
                  if told["error"] is not None and told["name"] == tracking.name]  # fmt: skip
        failed = tracking.verdict(study)
        if broken:
            said.append(f"of {len(broken)} runs, {broken[0]}")
        elif failed is not None:
            said.append(failed)
    return said


def _told(folder: Path) -> list[dict[str, Any]]:
    file = folder / TRACKED
    if not file.exists():
        return []
    try:
        return list(read_json(file)["trackers"])
    except (RegimesError, KeyError, TypeError):
        return []  # a note that cannot be read stops no run: what it said is sent again


def _note(folder: Path, tracking: Tracking, **state: Any) -> None:
    """Write down who tracks a run, for whoever resumes it, whether it holds all of it, and what failed."""
    mine = asdict(tracking)
    kept = [told for told in _told(folder) if told | mine != told]
    with contextlib.suppress(OSError, RegimesError):  # a run that cannot be written says so itself
        write_json(folder / TRACKED, {"trackers": [*kept, mine | state]})


def _row(arm: dict[str, Any]) -> list[Any]:
    found = arm["comparison"] or {}
    return [arm["name"], arm["mean"], found.get("difference"), found.get("low"), found.get("high"),
            found.get("verdict", "baseline")]  # fmt: skip
