"""A command's line with names in braces, and the values that fill it: no value can become a command of its own."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from regimes.core.errors import DeclarationError, show

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
#: The beginning of a line after which a shell stands outside quotes for certain: comments, plain words, $NAME, ${NAME},
#: $(, and closed quotes with none of a command within. Behind a backquote or a here-document nothing is certain.
_OUTSIDE = re.compile(
    r"""(?:(?:(?<=\s)|^)\#[^\n]*\n | (?<=[\w.:/=-])\# | [^\\'"`\#$<(] | \\. | <(?!<) | \((?!\()
        | \$(?!['"`{(]) | \$\{\w+\} | \$\((?!\()
        | '[^']*' | "(?:[^"\\`$] | \\. | \$(?![`{(]) | \$\{\w+(?::?[+=?-][^"'`\\{}()]*)?\})*" )*""",
    re.VERBOSE | re.DOTALL,
)
#: What could be a path; what a shell writes to; a module that is run.
_WORD = re.compile(r"""[^\s'"`;|&<>()=,]+""")
_WRITTEN = re.compile(r"""(?:&|\d)?>{1,2}\s*[^\s'"`;|&<>()]+|\btee\b[^;|&<>\n]*""")
_MODULE = re.compile(r"(?<!\S)-m\s+([A-Za-z_][\w.]*)")


@dataclass(frozen=True)
class Line:
    """A line of a shell with a ``{name}`` for each value; a brace of its own is doubled.

    A value is put as it stands where it is made of letters, digits and ``@%+=:,./-_`` alone, which mean nothing to a
    shell. Any other is quoted, and that is right outside quotes only: within, it is refused.

    Parameters
    ----------
    text : str

    Examples
    --------
    >>> line = Line("train --lr {lr} --tag {tag}")
    >>> line.filled({"lr": "1e-3", "tag": "a b; rm"})
    "train --lr 1e-3 --tag 'a b; rm'"
    >>> Line("train '--lr={lr}'").filled({"lr": "1e-3"})
    "train '--lr=1e-3'"
    """

    text: str

    @property
    def fields(self) -> list[str]:
        """Names in braces, in order."""
        return list(dict.fromkeys(found for found in _FIELD.findall(self.text) if found))

    def filled(self, texts: Mapping[str, str]) -> str:
        """Return the line with every name replaced.

        Raises
        ------
        DeclarationError
            If a value within quotes would have to be quoted itself.
        """
        made, at = "", 0
        for found in _FIELD.finditer(self.text):
            made += self.text[at : found.start()]
            at, name = found.end(), found[1]
            made += found[0][0] if name is None else _word(texts[name], name, made)
        return made + self.text[at:]

    def files(self, texts: Mapping[str, str], folder: Path) -> list[Path]:
        """Return the files that the line names: in a folder, or in one that the line names itself (``cd sub``).

        Every run of characters that could be a path is tried, whatever the quotes around it, ``--config=FILE`` and the
        module of ``-m`` too. Where a shell writes to (``>``, ``tee``) is not what a run is made of.
        """
        known = _WRITTEN.sub(" ", _FIELD.sub(lambda found: _known(found, texts), self.text))
        words = [os.path.expanduser(word) for word in _WORD.findall(known) if "\0" not in word]
        modules = [found.replace(".", "/") for found in _MODULE.findall(known)]
        folders = [folder, *(path for word in words if (path := folder / word).is_dir())]
        named = [*words, *(name for module in modules for name in (f"{module}.py", f"{module}/__main__.py"))]
        found = (place / word for place in folders for word in named)
        return list(dict.fromkeys(path for path in found if path.is_file()))


def _word(text: str, name: str, before: str) -> str:
    if _OUTSIDE.fullmatch(before):
        return shlex.quote(text)
    if text in ("", shlex.quote(text)):
        return text
    raise DeclarationError(
        f"got {show(text)} within quotes, where a shell would read it; write {{{name}}} outside them: it is quoted as "
        "it needs",
        name,
    )


def _known(found: re.Match[str], texts: Mapping[str, str]) -> str:
    """What a name stands for when words are looked for; what is not known yet can be no part of a file's name."""
    return found[0][0] if found[1] is None else texts.get(found[1], "\0")
