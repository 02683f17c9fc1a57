"""What all commands share: ``--debug``, an example in the help, errors as sentences, exit codes, JSON."""

from __future__ import annotations

import contextlib
import json
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

FAILED, BAD_DECLARATION, INTERRUPTED = 1, 2, 130


class Command(click.Command):
    """A command that says its errors in sentences and exits with a code for scripts."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; 0 done, 1 failed, 2 bad declaration, 130 and 143 interrupted."""
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as why:
            if ctx.meta.get("debug"):
                click.echo("".join(traceback.format_exception(why)), err=True, nl=False)
            code, text = said(why)
            click.echo(text, err=True)
            ctx.exit(code)


def said(why: Exception) -> tuple[int, str]:
    """Return the exit code and the sentence for an error."""
    from regimes.core.errors import DeclarationError, RegimesError, UserCodeError

    if isinstance(why, DeclarationError):
        return BAD_DECLARATION, str(why)
    if isinstance(why, UserCodeError):
        return FAILED, "\n".join([str(why), *_user_frames(why)])
    if isinstance(why, RegimesError):
        return getattr(why, "code", FAILED), str(why)
    if isinstance(why, OSError):
        return FAILED, f"{why.filename or 'a file could not be read or written'}: {why.strerror or why}"
    return FAILED, f"a fault of regimes itself: {type(why).__name__}: {why}; --debug shows where"


def _user_frames(why: Exception) -> list[str]:
    """Return the traceback of the user's own code: our frames and torch's are folded."""
    cause = why.__cause__
    if cause is None:
        return []
    ours = ("/regimes/", "/torch/", "importlib")
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if not any(part in f.filename for part in ours)]
    lines = traceback.format_list(frames) + traceback.format_exception_only(cause)
    return ["Traceback (most recent call last; frames of regimes and torch left out):", "".join(lines).rstrip()]


def command(name: str, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorate a function as a command with ``--debug`` and an example under its help."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=Command, epilog=f"\b\nExample:\n  {example}")(function)
        made.params.append(
            click.Option(
                ["--debug"], is_flag=True, expose_value=False, callback=_keep_debug, help="Show tracebacks of errors."
            )
        )
        return made

    return wrap


def _keep_debug(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    ctx.meta["debug"] = value


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
edits = click.option(
    "--set", "edits", multiple=True, metavar="PATH=VALUE", help="Replace a value: optimizer.lr.peak=3e-4. Repeatable."
)
track = click.option(
    "--track", multiple=True, metavar="NAME[@AXIS]",
    help="Copy the records to tensorboard, wandb, mlflow or trackio, over step, samples or tokens. Repeatable.",
)  # fmt: skip
progress = click.option(
    "--progress/--no-progress",
    default=None,
    help="Show progress. [default: on a terminal; of studies, plain lines elsewhere]",
)


@contextlib.contextmanager
def given_as(argument: str | None = None, /, **options: Any) -> Iterator[None]:
    """Inside, what is refused is said in the words of the command line: of an option, not of a file or of an argument.

    A file's own key keeps its name and line, unless an option gave the value.

    Parameters
    ----------
    argument : str, optional
        The key that the command's argument, which is no option, replaces.
    **options
        The values of options, by the key that they replace; None where an option was not given.
    """
    from regimes.core.errors import DeclarationError
    from regimes.study.problems import FileErrors

    try:
        yield
    except FileErrors as why:
        for problem in why.problems:
            key = problem.key.split(".")[-1]
            if options.get(key) is not None:
                raise DeclarationError(in_options(problem.message, options), _option(key)) from None
        raise
    except DeclarationError as why:
        key = why.key.split(".")[-1]
        named = _option(key) if options.get(key) is not None or why.key in options else why.key
        named = _argument() if why.key and why.key == argument else named
        raise DeclarationError(in_options(why.message, options), named) from why.__cause__


def in_options(message: str, names: Iterable[str]) -> str:
    """Return a sentence whose Python arguments are written as options.

    Examples
    --------
    >>> in_options("name the column of the steps (step=), or say assume='normal'; f(1, step=2)", ["step", "assume"])
    'name the column of the steps (--step), or say --assume normal; f(1, step=2)'
    """
    written = "|".join(map(re.escape, names))
    # Only words that stand alone: what was got, a call for example, is shown as it is.
    found = rf"(?<!\S)(\(?)({written})=(?:'([\w./-]*)'|([\w./-]*))(?![\w(=])"
    parts = re.split(r"(\b\w+\([^()]*\))", message)
    return "".join(
        part
        if place % 2
        else re.sub(found, lambda m: " ".join(filter(None, [m[1] + _option(m[2]), m[3] or m[4]])), part)
        for place, part in enumerate(parts)
    )


def _option(key: str) -> str:
    """How a person writes an argument of the command that is running."""
    context = click.get_current_context(silent=True)
    for parameter in () if context is None else context.command.params:
        if parameter.name == key and isinstance(parameter, click.Option):
            return max(parameter.opts, key=len)
    return f"--{key.replace('_', '-')}"


def _argument() -> str:
    """The name, in its usage, of what the command that is running is given without an option."""
    found = [one for one in click.get_current_context().command.params if isinstance(one, click.Argument)]
    return found[0].human_readable_name


@contextlib.contextmanager
def shown_by(folder: Any) -> Iterator[None]:
    """Inside, a run that gives up says which command shows where it began to go wrong."""
    from regimes.core.errors import RunFailed

    try:
        yield
    except RunFailed as why:
        raise RunFailed(f"{why}; where it began: regimes show {folder}") from why.__cause__


@contextlib.contextmanager
def continued_by(command: str) -> Iterator[None]:
    """Inside, an interruption says which command goes on: runs that are finished are kept."""
    from regimes.core.errors import Interrupted

    try:
        yield
    except (KeyboardInterrupt, Interrupted) as why:
        code = getattr(why, "code", INTERRUPTED)
        raise Interrupted(f"stopped; what is finished is kept, continue with: {command}", code) from None


def facts_before(folder: Any) -> dict[str, Any]:
    """Return what study.json in a folder says, nothing where there is none."""
    from regimes.core.files import told_by

    return told_by(Path(folder) / "study.json")


def page_of(study: Any, before: dict[str, Any]) -> Path:
    """Return a study's report; it is written (which takes seconds) where anything but the hour has changed."""
    page = study.folder / "report.html"
    facts = json.loads(json.dumps(study.to_dict()))
    same = {**facts, "created": ""} == {**before, "created": ""}
    return page if same and page.is_file() else study.report()


def print_json(data: Any) -> None:
    """Print as JSON; numbers that are not finite become text."""
    click.echo(json.dumps(_finite(data), indent=1, ensure_ascii=False, default=str))


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else repr(data)
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    return [_finite(item) for item in data] if isinstance(data, list | tuple) else data


def numbers(metrics: dict[str, float]) -> str:
    """Return metrics as one line."""
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in metrics.items()
    )


def advice(metrics: dict[str, float]) -> list[str]:
    """Return what to do about metrics that are no numbers."""
    bad = [name for name, value in metrics.items() if not math.isfinite(float(value))]
    if not bad:
        return []
    if len(bad) < len(metrics):
        return [f"{', '.join(bad)} cannot be told on this data, though other metrics can: look at how it is computed"]
    return ["no metric is a number: the run diverged; lower the learning rate, or clip: grad_transforms=ClipNorm(1.0)"]


def advice_of(study: Any) -> list[str]:
    """Return what to do where a study's metric is a number in no run of any arm: no interval can say it."""
    facts = study.to_dict()
    if any(value is not None for arm in facts["arms"] for value in arm["values"]):
        return []
    if any(arm["failed"] for arm in facts["arms"]):
        return []  # a note says what failed
    metric, one = facts["metric"], min((study.folder / "runs").glob("*"), default=study.folder)
    if all(arm["cost"]["steps"] for arm in facts["arms"]):
        return [
            f"{metric} is a number in no run, although they trained to the end: look at how it is computed on this "
            f"data; what one run measured: regimes show {one}"
        ]
    return [
        f"{metric} is a number in no run: lower the learning rates, or clip (grad_transforms=ClipNorm(1.0)); where one "
        f"run went wrong: regimes show {one}"
    ]


def table(rows: list[list[str]], head: list[str]) -> str:
    """Return rows under a head, in columns as wide as their content."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    return "\n".join(lines)
