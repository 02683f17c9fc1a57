"""Numbers as scripts write them: one expression, which reads them whole or not at all."""

from __future__ import annotations

import re
from typing import Any

from regimes.study.design import is_number

#: Digits with a point, an exponent and ``1_000``, or a word for what is not finite.
NUMBER = (
    r"[+-]?(?:(?<![A-Za-z])(?i:nan|inf(?:inity)?)(?!\w)"
    r"|(?:\d+(?:_\d+)*(?:\.(?:\d+(?:_\d+)*)?)?|\.\d+)(?:[eE][+-]?\d+)?)"
)
#: A number in text from its first sign on, with what hangs on it as in 1,234.5 or 1.2.3: seen, but no number.
_TOKEN = rf"(?<![\d.+-])(?<![\d.][eE_])((?>{NUMBER}(?:[.,]\d+)*))"
#: The same behind a sign or a point that the pattern itself names, as in ``acc-([0-9.]+)``.
_AFTER_SIGN = rf"((?>{NUMBER}(?:[.,]\d+)*))"


def number(told: Any) -> float | None:
    """Return what is told as a number; None where it is none, or only begins like one.

    Examples
    --------
    >>> [number(told) for told in (2, "2e-05", "1E-3", "+.5", "1_000", " -inf ", "NaN")]
    [2.0, 2e-05, 0.001, 0.5, 1000.0, -inf, nan]
    >>> [number(told) for told in ("1,234.5", "1.2.3", "2.5s", "", None, True)]
    [None, None, None, None, None, None]
    """
    if isinstance(told, str):
        return float(told) if re.fullmatch(rf"\s*{NUMBER}\s*", told) else None
    try:
        return float(told) if is_number(told) else None
    except OverflowError:  # an integer of 400 digits
        return None


def tokens(pattern: str, text: str) -> list[str]:
    """Return what stands in a text where the pattern has its group, whatever the group itself would take.

    So a pattern that was written for ``0.25`` neither cuts ``2e-05`` short nor passes over ``nan``.

    Raises
    ------
    ValueError
        If the pattern has not one group.

    Examples
    --------
    >>> tokens("val loss ([0-9.]+)", "val loss 2.5\\nval loss 2e-05\\nval loss improved\\nval loss nan")
    ['2.5', '2e-05', 'nan']
    >>> tokens("loss.*([0-9])", "loss is -12.5e-3"), tokens("acc-([0-9.]+)", "acc-0.93")
    (['-12.5e-3'], ['0.93'])
    """
    begin, end = _group(pattern)
    lead, rest = pattern[:begin], pattern[end:]
    token = _AFTER_SIGN if lead.endswith(("-", "\\+", "\\.")) and not lead.endswith("\\\\.") else _TOKEN
    found = re.finditer(f"{lead}{token}{rest}", text)
    return [match[1] for match in found if match[1] is not None]


def check(pattern: str) -> None:
    """Refuse what is no pattern with one group.

    Raises
    ------
    ValueError
        With the reason.
    """
    try:
        groups = re.compile(pattern).groups
        if groups != 1:
            raise ValueError(f"which has {groups} groups; allowed of text: a pattern between slashes with one group")
        tokens(pattern, "")
    except re.error as why:
        raise ValueError(f"which is no pattern: {why}") from None


def _group(pattern: str) -> tuple[int, int]:
    """From where to where the one group reaches; signs after a backslash and in brackets are letters."""
    opened: list[tuple[int, bool]] = []
    for sign in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?P<|\(\?|\(|\)", pattern, re.DOTALL):
        if sign[0].startswith("("):
            opened.append((sign.start(), sign[0] in ("(", "(?P<")))
        elif sign[0] == ")":
            begin, takes = opened.pop()
            if takes:
                return begin, sign.end()
    raise ValueError("which has no group that can be found")
