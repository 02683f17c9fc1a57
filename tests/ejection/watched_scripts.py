"""What the tests of ejected scripts share: ruff on their text, and which of their lines never run."""

import contextlib
import io
import subprocess
import sys
import types

RUFF = ("--isolated", "--line-length", "120", "--target-version", "py311")
#: The rules of this project, for lines that are folded at 120.
RULES = ("--select", "E,F,I,B,UP,SIM,RUF,PIE,PT,C4", "--ignore", "B905")


def ruff(*files):
    """What ruff finds in files of one folder, by rule and by layout; empty is clean.

    It runs there, where regimes is a package like others.
    """
    found = []
    for command in (("check", *RULES), ("format", "--check")):
        made = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *RUFF, *map(str, files)],
            capture_output=True,
            text=True,
            check=False,
            cwd=files[0].parent,
        )
        found += [made.stdout + made.stderr] if made.returncode else []
    return found


def dead_lines(text, file):
    """Run a whole script, `main` included; return its lines that were never executed."""
    code = compile(text, str(file), "exec")
    expected, seen = set(lines_of(code)), set()

    def note(frame, event, argument):
        if frame.f_code.co_filename != str(file):
            return None
        seen.add(frame.f_lineno)
        return note

    module = types.ModuleType("__main__")
    module.__file__ = str(file)
    before = sys.gettrace()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        sys.settrace(note)
        try:
            exec(code, module.__dict__)
        finally:
            sys.settrace(before)
    assert "loss" in printed.getvalue()
    return [text.splitlines()[number - 1].strip() for number in sorted(expected - seen)]


def lines_of(code):
    """Numbers of all lines with an instruction, of functions too."""
    yield from (line for _, _, line in code.co_lines() if line)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from lines_of(inner)
