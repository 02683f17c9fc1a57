"""The script that draws a report's charts: put together once per version of vl-convert, and kept in the user's cache."""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import hashlib
import importlib.metadata
import os
import zlib
from pathlib import Path
from typing import NamedTuple


class Library(NamedTuple):
    """Vega, Vega-Lite and Vega-Embed as one script.

    Parameters
    ----------
    packed : str
        As `pack` returns it.
    digest : str
        As `digest` returns it.
    """

    packed: str
    digest: str


@functools.cache
def library() -> Library:
    """Return the script; to put it together takes more than a second, so it is kept for the next report."""
    kept = _folder() / f"vega-{importlib.metadata.version('vl-convert-python')}.txt"
    with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
        digested, packed = kept.read_text(encoding="ascii").split("\n")
        if digest(gzip.decompress(base64.b64decode(packed, validate=True)).decode()) == digested:
            return Library(packed, digested)
    made = _made()
    with contextlib.suppress(OSError):  # where nothing can be kept, it is put together every time
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f".{kept.name}.{os.getpid()}.part")
        part.write_text(f"{made.digest}\n{made.packed}", encoding="ascii")
        part.replace(kept)
    return made


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regimes"


def _made() -> Library:
    import vl_convert

    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return Library(pack(script), digest(script))


def digest(script: str) -> str:
    """Return the hash by which the content-security policy lets this very script run, and no other.

    Examples
    --------
    >>> digest("")
    'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def pack(text: str) -> str:
    """Return the text compressed and in base64: a third of the size, and no character that HTML could misread.

    Examples
    --------
    >>> len(pack("a" * 1000))
    40
    """
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
