"""The skeleton of a declaration file: which keys there are and what kind of value each takes, checked by pydantic."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regimes.core import fields
from regimes.core.errors import FOREIGN, nearest, show
from regimes.core.regime import Phase
from regimes.study.problems import Problems
from regimes.study.yaml_text import Node


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Options(_Strict):
    """``options:`` of a run file: what `regimes.run` takes beside workload, regime and seed."""

    cadence: str | None = Field(None, alias="validate")
    probes: str | list[str] = []
    checkpoint: str = "10%"
    max_time: str | float | None = None
    give_up: Annotated[int, Field(ge=1)] = 10
    reduce: Literal["tree", "all_reduce"] = "tree"


class Settings(_Strict):
    """``compare:``: what `regimes.compare` takes beside workload, arms and tune."""

    baseline: str | None = None
    metric: str | None = None
    better: Literal["lower", "higher"] | None = None
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    equal: Literal["steps", "samples", "tokens", "flops"] | None = None
    seeds: Annotated[int, Field(ge=1)] | list[int] | None = None
    trials: Annotated[int, Field(ge=0)] = 0
    search: str = "quasi"
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    until: Literal["decided", "halved"] | None = None
    max_cost: str | float | None = None
    noise: str | None = None
    assume: Literal["normal"] | None = None
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "study"
    cadence: str | None = Field("10%", alias="validate")


class RunSkeleton(_Strict):
    """A file for ``regimes run``."""

    workload: str | dict[str, Any]
    regime: str | dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    options: Options = Field(default_factory=lambda: Options.model_validate({}))
    modules: list[str] = []


class CompareSkeleton(_Strict):
    """A file for ``regimes compare``."""

    workload: str | dict[str, Any]
    arms: Annotated[dict[str, str | dict[str, Any]], Field(min_length=1)]
    compare: Settings
    tune: dict[str, Any] = {}
    modules: list[str] = []


class Guard(_Strict):
    """``guard:``: what `regimes.guard` asks of a workload at two versions of its code."""

    metric: str | None = None
    better: Literal["lower", "higher"] | None = None
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    seeds: Annotated[int, Field(ge=2)] | list[int] = 8
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    base: str | None = None
    head: str = "working tree"
    pythonpath: str | list[str] = [".", "src"]
    links: list[str] = []
    steps: Annotated[int, Field(ge=1)] = 100
    allow_better: bool = False


class GuardSkeleton(_Strict):
    """A file for ``regimes guard``."""

    workload: str | dict[str, Any]
    regime: str | dict[str, Any] | None = None
    values: dict[str, str | int | float | bool] = {}
    guard: Guard
    modules: list[str] = []


#: Keys of a phase that a regime takes, too.
PHASE_FIELDS = tuple(name for name in fields.table(Phase) if name != "name")


def check(model: type[_Strict], data: dict[str, Any], node: Node | None, problems: Problems, lead: str = "") -> Any:
    """Validate `data` by a skeleton; note every problem with its line, and return the model or None.

    Parameters
    ----------
    model : type
        One of the skeletons.
    data : dict
        The content.
    node : Node or None
        Where it stands, for lines.
    problems : Problems
    lead : str
        Path of `data` in the file.
    """
    try:
        return model.model_validate(data)
    except ValidationError as why:
        said: dict[str, list[str]] = {}
        for error in why.errors():
            names, holder = _place(data, error)
            key = ".".join([lead, *names] if lead else names)
            if error["type"] == "extra_forbidden":
                said[key] = [_unknown(model, names, holder)]
            elif error["type"] == "missing":
                said[key] = [f"needs a value; {_EXAMPLES.get(names[-1], 'it has no default')}"]
            else:
                words = "at least one" if error["type"] == "too_short" else _words(error["msg"])
                said.setdefault(key, [f"got {show(_at(data, names))}"]).append(words)
        for key, parts in said.items():
            line = None if node is None else node.line_of(key)
            problems.add(key, parts[0] + (f"; allowed: {' or '.join(parts[1:])}" if parts[1:] else ""), line)
        return None


_EXAMPLES = {
    "workload": "write a built-in name such as char_lm, or package.module:function",
    "regime": "write a mapping with optimizer:, batch_size: and budget:",
    "arms": "write a mapping of names to regimes",
    "compare": "write a mapping with at least margin:, the smallest difference that matters",
    "guard": "write a mapping with at least margin:, the smallest difference that matters",
    "margin": "write the smallest difference that matters, in the metric's unit",
}


def _words(message: str) -> str:
    """Return pydantic's words in ours."""
    for theirs, ours in (
        ("Input should be ", ""),
        ("a valid dictionary", "a mapping"),
        ("a valid string", "text"),
        ("a valid ", "a "),
    ):
        message = message.replace(theirs, ours)
    return message.replace("a integer", "an integer")


def _place(data: Any, error: Any) -> tuple[list[str], Any]:
    """Return the keys of an error that exist in the file (pydantic adds names of union members), and their holder."""
    names, here, holder = [], data, data
    for part in error["loc"]:
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, dict) and part in here):
            holder, here = here, here[part]
        elif error["type"] != "missing":
            continue
        names.append(str(part))
    return names, holder


def _at(data: Any, names: list[str]) -> Any:
    for name in names:
        data = data[int(name)] if isinstance(data, list) else data[name]
    return data


def _unknown(model: type[_Strict], names: list[str], holder: Any) -> str:
    name, inside = names[-1], names[:-1]
    sections: dict[str, type[_Strict]] = {"compare": Settings, "options": Options, "guard": Guard}
    owner = sections.get(inside[-1] if inside else "", model)
    options = [field.alias or key for key, field in owner.model_fields.items()]
    ours = FOREIGN.get(name.lower(), name).split(".")[0]
    if owner in (RunSkeleton, CompareSkeleton):
        place = "regime:" if owner is RunSkeleton else "an arm"
        if ours in PHASE_FIELDS or ours == "phases":
            called = "" if ours == name else f" (here it is called '{ours}')"
            return f"stands at the top of the file, but belongs under {place}{called}"
        settings = [field.alias or key for key, field in Settings.model_fields.items()]
        if owner is CompareSkeleton and name in settings:
            return "stands at the top of the file, but belongs under compare:"
        if owner is RunSkeleton and name in [field.alias or key for key, field in Options.model_fields.items()]:
            return "stands at the top of the file, but belongs under options:"
    elif name in ("tune", "arms", "workload", "modules", "seed"):
        return f"stands under {inside[-1]}:, but belongs at the top of the file"
    return f"is no key here; {nearest(name, options)}"
