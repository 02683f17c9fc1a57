"""The same arms on several workloads: a study each, and over all of them how fast each arm reaches the targets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from regimes.core.errors import DeclarationError, nearest, show
from regimes.core.files import write_json
from regimes.study import specs, yaml_text
from regimes.study.compare import compare
from regimes.study.declarations import CompareFile
from regimes.study.design import is_number
from regimes.study.profiles import Profile, performance_profile
from regimes.study.study import Study
from regimes.study.yaml_file import read_yaml

_KEYS = ("workloads", "arms", "compare", "tune", "target", "modules")
#: What stands in a workload's entry: its own, and what it says of every arm or of the comparison.
_OWN, _COMPARED = ("workload", "skip", "arms"), ("margin", "metric", "better", "equal")


@dataclass(frozen=True)
class Shootout:
    """Studies of the same arms on several workloads.

    Parameters
    ----------
    studies : dict of str to Study
        By workload.
    targets : dict of str to float
        What the metric has to reach: the baseline's mean at the declared share of its course.
    steps, seconds : dict of str to dict of str to (float or None)
        By arm and workload: until the mean curve of its seeds reaches the target; None where it does not, or one diverged.
    """

    studies: dict[str, Study]
    targets: dict[str, float]
    steps: dict[str, dict[str, float | None]]
    seconds: dict[str, dict[str, float | None]]

    @property
    def profiles(self) -> dict[str, Profile]:
        """Of steps to the targets, by arm."""
        return performance_profile(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data; the studies by their folders."""
        scores = {name: profile.score() for name, profile in self.profiles.items()}
        return {
            "workloads": {name: str(study.folder) for name, study in self.studies.items()},
            "targets": self.targets,
            "scores": dict(sorted(scores.items(), key=lambda item: -item[1])),
            "steps": self.steps,
            "seconds": self.seconds,
            "verdicts": {name: study.verdicts for name, study in self.studies.items()},
            "finals": {name: {a["name"]: a["mean"] for a in s.to_dict()["arms"]} for name, s in self.studies.items()},
        }

    def __str__(self) -> str:
        from regimes.report.shootout import text

        return text(self.to_dict())


def read(path: str | Path) -> tuple[dict[str, CompareFile], float]:
    """Read a file with ``workloads``, ``arms``, ``compare``, ``tune`` and ``target``: a study for each workload.

    An entry of ``workloads`` has ``workload`` and, for all arms there, any key of an arm (``batch_size``, ``budget``);
    ``margin``, ``metric``, ``better`` and ``equal`` of the comparison; ``skip``, names of arms that are not trained there;
    ``arms``, what single arms have else there. A mapping of an arm may be a text: then it is the optimizer.

    Raises
    ------
    DeclarationError
        For unknown keys, or what no study can be made of, with the workload in front.
    """
    file = Path(path)
    if not file.is_file():
        raise DeclarationError(f"there is no file '{path}'")
    data = yaml_text.read(file.read_text(encoding="utf-8-sig"), str(file)).data
    if not isinstance(data, dict) or not isinstance(data.get("workloads"), dict) or not data["workloads"]:
        raise DeclarationError(f"got {show(data)}; allowed: a mapping with {', '.join(_KEYS)}", "workloads")
    for key in data:
        if key not in _KEYS:
            raise DeclarationError(f"is no key of such a file; {nearest(str(key), _KEYS)}", str(key))
    share = data.get("target", 0.8)
    if not is_number(share) or not 0 < share <= 1:
        raise DeclarationError(
            f"got {show(share)}; allowed: a share of the baseline's course, above 0 up to 1", "target"
        )
    arms = {
        name: {"optimizer": arm} if isinstance(arm, str) else dict(arm)
        for name, arm in dict(data.get("arms") or {}).items()
    }
    found = {}
    for name, entry in data["workloads"].items():
        text = json.dumps(_study(data, arms, str(name), entry), indent=1)  # which is YAML
        try:
            made = read_yaml(text, file)
        except DeclarationError as why:
            raise why.within(f"workloads.{name}") from None
        assert isinstance(made, CompareFile)  # what has arms is one
        found[str(name)] = made
    return found, float(share)


def _study(data: Mapping[str, Any], arms: Mapping[str, Any], name: str, entry: Any) -> dict[str, Any]:
    """The file of one workload's study."""
    if not isinstance(entry, dict) or "workload" not in entry:
        raise DeclarationError(f"got {show(entry)}; allowed: a mapping with workload:", f"workloads.{name}")
    skip, own = entry.get("skip") or [], dict(entry.get("arms") or {})
    for arm in [*skip, *own]:
        if arm not in arms:
            raise DeclarationError(f"got '{arm}', which is no arm; {nearest(str(arm), arms)}", f"workloads.{name}")
    shared = {key: value for key, value in entry.items() if key not in (*_OWN, *_COMPARED)}
    mine = {arm: shared | given | dict(own.get(arm) or {}) for arm, given in arms.items() if arm not in skip}
    settings = dict(data.get("compare") or {}) | {key: entry[key] for key in _COMPARED if key in entry}
    made = {"workload": entry["workload"], "arms": mine, "compare": settings | {"name": name}}
    return made | {key: data[key] for key in ("tune", "modules") if key in data}


def shootout(
    path: str | Path, *, out: str | Path = "runs/shootout", workers: int | None = None, progress: bool | None = None
) -> Shootout:
    """Compare the same arms on several workloads, and tell how fast each reaches the targets.

    The target of a workload is what the baseline's mean curve has reached at a share of its course; every arm is timed
    until its own mean curve reaches that. Steps are exact; seconds are those of the runs that were trained side
    by side, and comparable within one study only.

    Parameters
    ----------
    path : path
        A file as `read` takes it.
    out : path
        Folder: a study for each workload, ``shootout.json``, ``shootout.md`` and ``profiles.svg``.
    workers : int, optional
        As of `regimes.compare`.
    progress : bool, optional

    Returns
    -------
    Shootout
    """
    from regimes.report.shootout import write

    files, share = read(path)
    studies: dict[str, Study] = {}
    for name, found in files.items():
        workload = specs.load_workload(found.workload_spec)
        make = (specs.workload_in, (found.workload_spec, (str(Path(path).resolve().parent), str(Path.cwd()))))
        settings = {key: value for key, value in found.settings.items() if key != "name"}
        studies[name] = compare(
            workload, found.arms, out=Path(out) / name, name=name, workers=workers, progress=progress,
            workload_spec=found.workload_spec, make=make, **settings,
        )  # fmt: skip
        studies[name].report()
    made = judged(studies, share)
    write_json(Path(out) / "shootout.json", made.to_dict())
    write(made.to_dict(), Path(out))
    return made


def judged(studies: Mapping[str, Study], share: float) -> Shootout:
    """Return what studies of the same arms say together.

    Parameters
    ----------
    studies : mapping of workloads to Study
    share : float
        Of the baseline's course at which its mean is the target.
    """
    courses = {name: {arm["name"]: _course(arm) for arm in study.to_dict()["arms"]} for name, study in studies.items()}
    targets = {}
    for name, study in studies.items():
        baseline = study.to_dict()["baseline"]
        base = courses[name][baseline]
        if not base:
            raise DeclarationError(
                f"got no course of '{baseline}' from which a target could be told", f"workloads.{name}"
            )
        targets[name] = _value_at(base, share * base[-1].step)
    arms = list(dict.fromkeys(arm for found in courses.values() for arm in found))
    steps: dict[str, dict[str, float | None]] = {arm: dict.fromkeys(studies) for arm in arms}
    seconds: dict[str, dict[str, float | None]] = {arm: dict.fromkeys(studies) for arm in arms}
    for name, study in studies.items():
        for arm, course in courses[name].items():
            reached = _reached(course, study.to_dict()["better"], targets[name])
            if reached is not None:
                steps[arm][name], seconds[arm][name] = reached
    return Shootout(dict(studies), targets, steps, seconds)


class _Point(NamedTuple):
    """A measurement of an arm: means over its seeds."""

    step: float
    seconds: float
    value: float


def _course(arm: Mapping[str, Any]) -> list[_Point]:
    """The mean curve of an arm; none where a seed diverged or failed, or was not measured at the same steps."""
    curves = arm["curves"]
    if arm["failed"] or arm["diverged"] or not curves or len({tuple(curve["x"]["step"]) for curve in curves}) > 1:
        return []
    found = []
    for place, step in enumerate(curves[0]["x"]["step"]):
        values = [curve["value"][place] for curve in curves]
        times = [curve["x"]["seconds"][place] or 0.0 for curve in curves]
        if all(value is not None and math.isfinite(value) for value in values):
            found.append(_Point(float(step), sum(times) / len(times), sum(values) / len(values)))
    return found


def _value_at(course: Sequence[_Point], step: float) -> float:
    """The value at a step, in a straight line between measurements."""
    after = next(place for place, point in enumerate(course) if point.step >= step)
    one, other = course[max(after - 1, 0)], course[after]
    share = 1.0 if other.step == one.step else (step - one.step) / (other.step - one.step)
    return one.value + (other.value - one.value) * share


def _reached(course: Sequence[_Point], better: str, target: float) -> tuple[float, float] | None:
    """(steps, seconds) until a course first reaches the target, in a straight line between measurements."""
    sign, before = 1.0 if better == "lower" else -1.0, None
    for point in course:
        if sign * point.value <= sign * target:
            if before is None:
                return point.step, point.seconds
            share = (before.value - target) / (before.value - point.value)
            return tuple(a + (b - a) * share for a, b in zip(before[:2], point[:2]))  # type: ignore[return-value]
        before = point
    return None
