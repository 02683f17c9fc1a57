"""The command line: ``regimes COMMAND``. Here is only what ``--help`` needs; each command's module loads the rest."""

from __future__ import annotations

import importlib
from typing import Any

import click

#: Command -> what it does, as ``regimes --help`` lists it; a test holds the commands' own help against it.
COMMANDS = {
    "demo": "Compare four ways to train a small GPT, and report.",
    "run": "Train what a file declares, in a folder.",
    "import": "Make a regime of transformers' TrainingArguments, and prove it.",
    "eject": "Write the plain PyTorch loop of a file: a script to read, keep and change.",
    "resume": "Continue a run that was stopped or killed.",
    "fork": "Go on from a step of a run under edits, in a folder of its own.",
    "extend": "Train a run on: a fork with a longer budget.",
    "replay": "Make a window of a run again, to the bit, with instruments on.",
    "plan": "Tell what a file would do: steps, work, memory, time, schedules.",
    "check": "Validate a file; nothing is trained.",
    "compare": "Train all arms of a file over paired seeds, and judge.",
    "shootout": "Compare the same arms on several workloads: steps to targets, final metrics, performance profiles.",
    "tune-lr": "Recommend a peak learning rate for what a file declares.",
    "verify": "Re-test what a method's card claims.",
    "guard": "Test whether a change of code changed the training.",
    "audit": "Tell which conclusions of past runs stand, and which re-runs would settle most.",
    "early-signal": "Tell how well the beginning of finished runs ranks them, before runs are stopped by it.",
    "verdict": "Judge runs that are finished, whoever made them.",
    "report": "Write the HTML report of a study.",
    "show": "Show a component's card, a workload, a run or a study.",
    "diff": "Show where two declarations or runs differ.",
    "list": "List components and workloads by kind.",
    "atlas": "List what the literature proposes and the package covers, with evidence.",
    "runs": "List the runs below a folder.",
    "index": "Write the index of a folder of runs anew.",
    "new": "Write a component of your own, with its test.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"regimes.cli.{name.replace('-', '_')}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Refuse an unknown command with the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from regimes.core.errors import nearest

            ctx.fail(f"there is no command '{args[0]}'; {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, epilog="Start with: regimes demo")
@click.version_option(package_name="regimes")
def group() -> None:
    """Declare, run, compare and verify training regimes: is it better, or was it the seed?"""


def main() -> None:
    """Entry point of the ``regimes`` command.

    Exit status: 0 done, 1 failed, 2 bad declaration or usage, 130 and 143 interrupted.
    """
    group(prog_name="regimes")
