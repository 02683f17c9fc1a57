"""The page on coming from other trainers: its examples run, its right columns are evaluated, its commands are parsed."""

import ast
import doctest
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.cli import group
from regimes.core.regime import Regime

PAGE = Path(__file__).parent.parent / "docs" / "migrating.md"
TEXT = PAGE.read_text()
#: What stands in code on the right and is neither a piece of a regime nor a command.
WORDS = {
    "lr", "--examples", "--devices 2", "records.jsonl", "final/", "double()", "batch_size", "micro_batch", "val=", "train=",
    "collate_fn",
    "rg.stream(work, regime)", "trainer_state.json", "wandb", "mlflow", "trackio", "get_decay_parameter_names", "state_dict",
    "(model, batch) -> losses per example",
}  # fmt: skip
ARGUMENTS = dict.fromkeys(("FILE", "DIR", "PATH"), "x")


def right_columns():
    """Every piece of code in the last column of a table, with its line."""
    for number, line in enumerate(TEXT.splitlines(), 1):
        cells = [cell.strip() for cell in line.split(" | ")]
        if line.startswith("| ") and len(cells) == 2:
            yield from ((number, code) for code in re.findall(r"`([^`]+)`", cells[1].removesuffix(" |")))


PIECES = sorted(set(right_columns()))
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
x = torch.randn(16, 4)
data = (x, (x[:, 0] > 0).long())


class Around:
    """`rg`, but that runs are declared and not made."""

    def __getattr__(self, name):
        return getattr(rg, name)

    @staticmethod
    def run(work, regime, seed=0, **options):
        assert set(options) <= set(rg.run.__kwdefaults__)
        for key in ("validate", "checkpoint"):
            rg.Duration.parse(options.get(key, "1%"))
        return options

    @staticmethod
    def stream(work, regime):
        return None


NAMES = {"rg": Around(), "nn": nn, "torch": torch, "net": net, "data": data, "work": None, "regime": None}


def said(code):
    """Evaluate a piece: a value, or keyword arguments; None where it is neither."""
    for form in (code, f"dict({code})"):
        try:
            tree = ast.parse(form, mode="eval")
        except SyntaxError:
            continue
        return eval(compile(tree, "page", "eval"), dict(NAMES))
    return None


@pytest.mark.parametrize(("line", "code"), PIECES)
def test_what_stands_on_the_right_is_so(line, code):
    if (
        code in WORDS
        or code.startswith(("@", "*", "torchrun", "seed: ", "options: "))
        or (PAGE.parent.parent / code).is_file()
    ):
        return
    if code.startswith("regimes "):
        parsed(code)
        return
    value = said(code)
    assert value is not None, f"{PAGE.name}:{line}: {code}"
    if isinstance(value, dict) and "=" in code.split("(")[0]:
        belongs(value)
    elif isinstance(value, str):
        rg.Duration.parse(value)


def belongs(given):
    """Fields of a phase make a regime; of a workload, a workload; the warm-up, a schedule."""
    if set(given) == {"warmup"}:
        rg.Linear(1.0, **given)
    elif set(given) == {"metrics"}:
        rg.Workload(model=net, train=data, loss=nn.CrossEntropyLoss(), **given)
    else:
        plain = {"optimizer": rg.SGD(lr=0.1), "batch_size": 8, "budget": "10 epochs"}
        Regime(**(plain | given))


def parsed(code):
    _, name, *arguments = shlex.split(code)
    command = group.get_command(click.Context(group), name)
    assert command is not None, code
    command.make_context(name, [ARGUMENTS.get(word, word) for word in arguments])


def test_the_tables_are_read():
    assert len(PIECES) > 120
    with pytest.raises(AttributeError):
        said("optimizer=rg.Adamw(lr=1)")
    with pytest.raises(rg.DeclarationError):
        belongs(said("momentum=0.9"))
    with pytest.raises(click.UsageError):
        parsed("regimes run FILE --tracks wandb")


def test_commands_in_the_text_parse():
    found = re.findall(r"^(regimes .*)$", TEXT, re.MULTILINE) + re.findall(r"`(regimes \w+ [^`]+)`", TEXT)
    assert len(found) > 8
    for code in found:
        parsed(code)


def test_its_examples_print_what_they_say():
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=flags)
    assert (found.failed, found.attempted > 8) == (0, True)


def test_its_links_lead_somewhere():
    anchors = {
        re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (PAGE.parent / target).exists(), target
