"""``training_args.bin`` without running it: a pickle whose classes are replaced by inert ones."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regimes.core.errors import DeclarationError, show

#: What the Trainer puts on its arguments beside their keys.
_DERIVED = (
    "deepspeed_plugin",
    "distributed_state",
    "fsdp_plugin_args",
    "hf_deepspeed_config",
    "mixed_precision",
    "xla_fsdp_config",
)
_INSTEAD = "write the JSON: Path('training_args.json').write_text(trainer.args.to_json_string())"


class _Inert:
    """Stands for any class and any function of a pickle: it keeps what it is given and does nothing."""

    given: tuple[Any, ...] = ()

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __call__(self, *given: Any) -> _Inert:
        return _Inert(*given)


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing: every name of the file becomes an inert class."""

    def find_class(self, module: str, name: str) -> Any:
        return type(name, (_Inert,), {"__module__": "inert"})

    def persistent_load(self, pid: Any) -> Any:
        return _Inert(pid)


def read(file: Path) -> dict[str, Any]:
    """Return the arguments that a Trainer saved with its checkpoints; nothing of the file is executed.

    Raises
    ------
    DeclarationError
        If the file is no such archive, or holds something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            made = _Reader(io.BytesIO(archive.read(name))).load()
    except (OSError, zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, EOFError, ValueError) as why:
        raise DeclarationError(
            f"'{file}' is no archive of torch.save ({why or 'it holds no data.pkl'}); {_INSTEAD}"
        ) from None
    except (TypeError, AttributeError, IndexError, KeyError) as why:
        raise DeclarationError(f"'{file}' cannot be read without running what it holds ({why}); {_INSTEAD}") from None
    values = vars(made) if isinstance(made, _Inert) else {}
    if "learning_rate" not in values:
        raise DeclarationError(f"'{file}' holds {show(type(made).__name__)}, no TrainingArguments; {_INSTEAD}")
    return {key: _plain(value) for key, value in values.items() if not key.startswith("_") and key not in _DERIVED}


def _plain(value: Any) -> Any:
    """A member of an enumeration as its value, another object as its attributes."""
    if isinstance(value, _Inert):
        return value.given[0] if value.given else _plain(vars(value))
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple | set) else value
