"""Somebody's TrainingArguments as values: from a file, a mapping or the object, every value looked at before it is used."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, nearest, show
from regimes.study.importing import pickled
from regimes.study.importing.keys import DEFAULTS, RENAMED, asks_for_nothing

#: What is looked for in a folder, a checkpoint of the Trainer's for example.
FILES = ("training_args.json", "training_args.bin")


def place(path: str | Path) -> Path:
    """Return the file that a path means: itself, or what a folder holds.

    Raises
    ------
    DeclarationError
        If there is none.
    """
    file = Path(path)
    if file.is_dir():
        found = [file / name for name in FILES if (file / name).is_file()]
        if not found:
            raise DeclarationError(f"the folder '{file}' holds no {' and no '.join(FILES)}")
        return found[0]
    if not file.is_file():
        raise DeclarationError(f"there is no file '{file}'")
    return file


def read(file: Path) -> dict[str, Any]:
    """Return the arguments in a file.

    Raises
    ------
    DeclarationError
        If it holds something else.
    """
    if file.suffix == ".bin":
        return pickled.read(file)
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, ValueError) as why:
        raise DeclarationError(f"'{file}' cannot be read as JSON: {why}") from None
    if not isinstance(data, dict):
        raise DeclarationError(
            f"'{file}' holds {show(data)}; allowed: an object of keys, as to_json_string() writes it"
        )
    return data


def as_mapping(args: Any) -> dict[str, Any]:
    """Return the arguments of a path, a mapping, or an object of transformers itself.

    Raises
    ------
    DeclarationError
        For anything else.
    """
    if isinstance(args, str | Path):
        return read(place(args))
    if isinstance(args, Mapping):
        return dict(args)
    if callable(getattr(args, "to_dict", None)):
        return dict(args.to_dict())
    raise DeclarationError(f"got {show(args)}; allowed: a path, a dict of keys, or a TrainingArguments", "args")


class Given:
    """The keys of a declaration, read by name; what nobody reads is told apart in the end.

    Parameters
    ----------
    values : mapping of str to value
    ignore : iterable of str
        Keys of a subclass that are passed over.

    Raises
    ------
    DeclarationError
        If a key is none of TrainingArguments.
    """

    def __init__(self, values: Mapping[str, Any], ignore: Iterable[str] = ()) -> None:
        self.values, self.ignored = _renamed(values), tuple(ignore)
        for key in self.ignored:
            if key not in self.values or key in DEFAULTS:
                known = "a key of TrainingArguments" if key in DEFAULTS else "no key of the file"
                raise DeclarationError(f"got '{key}', which is {known}; allowed: keys of a subclass", "ignore")
        unknown = [key for key in self.values if key not in DEFAULTS and key not in self.ignored]
        if unknown:
            hint = nearest(unknown[0], DEFAULTS) if len(unknown) == 1 else "they may be a subclass's"
            more = "" if len(unknown) == 1 else f", nor are {', '.join(unknown[1:])}"
            raise DeclarationError(
                f"is no key of TrainingArguments{more}; {hint}; to pass over what a subclass adds: "
                + " ".join(f"--ignore {key}" for key in unknown),
                unknown[0],
            )

    def has(self, key: str) -> bool:
        """Whether the declaration says something for a key."""
        return self.values.get(key) is not None

    def get(self, key: str) -> Any:
        """The value of a key, or its default."""
        value = self.values.get(key)
        return DEFAULTS[key] if value is None else value

    def number(self, key: str, low: float | None = None, high: float | None = None) -> float:
        """A finite number.

        Raises
        ------
        DeclarationError
            If it is none, less than `low` or more than `high`.
        """
        return number(self.get(key), key, low, high)

    def integer(self, key: str, low: int) -> int:
        """A whole number of at least `low`; JSON may write it as 8.0."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < low or value % 1:
            raise DeclarationError(f"got {show(value)}; allowed: an integer >= {low}", key)
        return int(value)

    def flag(self, key: str) -> bool:
        """True or False."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise DeclarationError(f"got {show(value)}; allowed: true or false", key)
        return value

    def choice(self, key: str, options: Iterable[str]) -> str:
        """One of some names."""
        value, options = self.get(key), list(options)
        if value not in options:
            raise DeclarationError(f"got {show(value)}; {nearest(str(value), options)}", key)
        return value

    def options(self, key: str) -> dict[str, Any]:
        """Named options: a mapping, its JSON, or the Trainer's ``a=1, b=2``; texts of numbers are numbers."""
        value = self.get(key)
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except ValueError as why:
                raise DeclarationError(f"got {show(value)}, which is no JSON: {why}", key) from None
        if isinstance(value, str):
            pairs = [part.split("=") for part in value.replace(" ", "").split(",") if part]
            if any(len(pair) != 2 for pair in pairs):
                raise DeclarationError(f"got {show(value)}; allowed: 'name=value, name=value'", key)
            value = dict(pairs)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise DeclarationError(f"got {show(value)}; allowed: names and values", key)
        return {name: _read(item) for name, item in value.items()}


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of transformers 4 under the names that 5 has; one that asks for nothing is dropped."""
    found = {key: value for key, value in values.items() if key not in RENAMED}
    for old, (new, where_true) in RENAMED.items():
        value = values.get(old)
        if value in (None, False, "no", ""):
            continue
        wanted = value if where_true is None else where_true
        if new in found and not asks_for_nothing(new, found[new]) and found[new] != wanted:
            raise DeclarationError(f"got {show(value)} beside {new} = {show(found[new])}; allowed: one of them", old)
        found[new] = wanted
    return found


def number(value: Any, key: str, low: float | None = None, high: float | None = None) -> float:
    """Return a finite number from `low` to `high`, or refuse it.

    Examples
    --------
    >>> number(3, "seed"), number("3", "seed")
    Traceback (most recent call last):
        ...
    regimes.core.errors.DeclarationError: seed: got '3'; allowed: a number
    """
    plain = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not plain or (low is not None and value < low) or (high is not None and value > high):
        bounds = [f" {sign} {bound:g}" for sign, bound in ((">=", low), ("<=", high)) if bound is not None]
        raise DeclarationError(f"got {show(value)}; allowed: a number{' and'.join(bounds)}", key)
    return value


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value)
    except ValueError:
        try:
            return float(value)
        except ValueError:
            return value
