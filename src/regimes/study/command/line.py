"""A command's line with names in braces, and the values that fill it: no value can become a command of its own."""

from __future__ import annotations

import contextlib
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
        """Return the files in a folder that the words of the line name, ``--config=FILE`` too."""
        known = _FIELD.sub(lambda found: _known(found, texts), self.text)
        words: list[str] = []
        with contextlib.suppress(ValueError):  # a line that only a shell can split names what it names
            split = shlex.shlex(known, posix=True, punctuation_chars=True)
            split.whitespace_split, split.commenters = True, ""
            words = [part for word in split if "\0" not in word for part in (word, word.split("=", 1)[-1])]
        return list(dict.fromkeys(path for word in words if (path := folder / word).is_file()))


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
    if found[1] is None:
        return found[0][0]
    return shlex.quote(texts[found[1]]) if found[1] in texts else "\0"
