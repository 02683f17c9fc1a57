"""A run is what its code does: every edit that could change its bits makes another run, and nothing else does."""

import copy
import functools
import importlib
import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.notation import parse
from regimes.engine import identity
from regimes.engine.code import Reader

pytestmark = pytest.mark.filterwarnings("ignore:val. of the DataLoader")

#: A person's program in three modules; each edit below replaces one piece of it.
PROGRAM = {
    "mine_main": """
import functools
import torch
from torch import nn
import regimes as rg
import mine_layers
from mine_layers import scaled
from mine_lists import Examples, gather

SHARP = 1.0

class Net(nn.Module):
    slope = 0.5
    def __init__(self, width):
        super().__init__()
        self.body = nn.Linear(3, width)
    def forward(self, x):
        if self.training:
            return self.body(x)
        return mine_layers.squash(self.body(x)) * self.slope

def make(width):
    floor = 0.0
    def metric(output, target):
        return (output.argmax(-1) == target).float() + floor
    return lambda: Net(width), metric

def partly(output, target, share):
    return (output.sum(-1) > share).float()

def attributed(output, target):
    return (output.sum(-1) > attributed.level).float()
attributed.level = 0.25

class Counted:
    limit = 3
    def update(self, output, target): self.n = min(self.n + len(target), self.limit)
    def reset(self): self.n = 0
    def compute(self): return float(self.n)

def late(output, target):
    from mine_late import judge
    return judge(output)

def loss(model, batch):
    x, y = batch
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    # What the first batch does not show: it has no such example.
    return torch.where(x[:, 0] > 1e6, scaled(losses) * SHARP, losses)

TABLE = {"top": lambda output, target: output.amax(-1) + 0.0}

def unused():
    return "before"

def work():
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    model, metric = make(2)
    metrics = {"closure": metric, "partial": functools.partial(partly, share=0.1), "attribute": attributed,
               "object": Counted(), "late": late, "decorated": torch.no_grad()(lambda o, t: o.mean(-1) * 2.0),
               "table": lambda o, t: TABLE["top"](o, t)}
    val = torch.utils.data.DataLoader(Examples(x, y), collate_fn=gather)
    return rg.Workload(model=model, train=(x, y), val=val, loss=loss, metrics=metrics, name="mine")
""",
    "mine_layers": """
def squash(x):
    return inner(x)
def inner(x):
    return x.clamp(-9.0, 9.0)
def scaled(x, by=2.0):
    return x * by
""",
    "mine_lists": """
import torch
class Examples(torch.utils.data.Dataset):
    def __init__(self, x, y): self.x, self.y = x, y.tolist()
    def __len__(self): return len(self.y)
    def __getitem__(self, i): return self.x[i], self.y[i]
def gather(examples):
    return torch.stack([x for x, _ in examples]), torch.tensor([y for _, y in examples])
""",
    "mine_late": """
def judge(output):
    return output.amin(-1)
""",
}
EDITS = {
    "closure cell": ("mine_main", "floor = 0.0", "floor = 0.5"),
    "factory's argument, in its closure": ("mine_main", "make(2)", "make(3)"),
    "partial argument": ("mine_main", "share=0.1", "share=0.2"),
    "attribute of a function": ("mine_main", "attributed.level = 0.25", "attributed.level = 0.5"),
    "metric": ("mine_main", "output.argmax(-1)", "output.argmin(-1)"),
    "decorated metric": ("mine_main", "o.mean(-1) * 2.0", "o.mean(-1) * 3.0"),
    "class attribute of a metric": ("mine_main", "limit = 3", "limit = 4"),
    "method of a metric": ("mine_main", "float(self.n)", "float(self.n + 1)"),
    "function in a table": ("mine_main", "output.amax(-1) + 0.0", "output.amax(-1) + 1.0"),
    "loss, where the first batch does not go": ("mine_main", "scaled(losses)", "scaled(losses, 3.0)"),
    "global constant": ("mine_main", "SHARP = 1.0", "SHARP = 2.0"),
    "class attribute of the model": ("mine_main", "slope = 0.5", "slope = 0.25"),
    "default argument in a helper module": ("mine_layers", "by=2.0", "by=4.0"),
    "helper of a helper, through its module": ("mine_layers", "clamp(-9.0, 9.0)", "clamp(-8.0, 8.0)"),
    "collate function": ("mine_lists", "torch.tensor([y for", "torch.tensor([y * 1 for"),
    "dataset": ("mine_lists", "return self.x[i], self.y[i]", "return self.x[i] + 0, self.y[i]"),
    "module imported when it is called": ("mine_late", "amin(-1)", "amax(-1)"),
}
SAME = {
    "comment": ("mine_main", "SHARP = 1.0", "SHARP = 1.0  # how sharp"),
    "moved lines": ("mine_layers", "def squash", "\n\n\ndef squash"),
    "code that nothing reaches": ("mine_main", 'return "before"', 'return "after"'),
    "new function": ("mine_lists", "def gather", "def other(): return 3\ndef gather"),
}
BASE = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget="4 steps")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Write the program with an edit, import it anew, and return the identity of a run of it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def content(edit=None):
        for name in PROGRAM:
            source = textwrap.dedent(PROGRAM[name])
            if edit is not None and edit[0] == name:
                assert source.count(edit[1]) == 1
                source = source.replace(*edit[1:])
            (tmp_path / f"{name}.py").write_text(source)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        made = importlib.import_module("mine_main").work()
        return identity.identity(rg.Run(made, BASE))

    yield content
    for name in PROGRAM:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_is_noticed_and_its_module_named(program, edit):
    before, after = program(), program(edit)
    assert identity.key(before) != identity.key(after)
    if edit[1] != "make(2)":  # that one changes the weights, too
        changed = {name for name in before if before[name] != after[name]}
        assert changed <= {"sources", "data"}
        named = {n for n in after["sources"] if after["sources"][n] != before["sources"].get(n)}
        # What stands in no function has no module: it is named by its use.
        assert ("(metrics)" if edit[1] == "share=0.1" else edit[0]) in named


@pytest.mark.parametrize("edit", SAME.values(), ids=SAME)
def test_what_changes_no_bit_is_the_same_run(program, edit):
    assert program() == program(edit)


def test_every_label_and_all_of_val_count():
    x, y = torch.randn(500, 3), torch.zeros(500).long()
    examples = [(x[i], int(y[i])) for i in range(500)]

    def key_of(train, val):
        work = rg.Workload(model=nn.Linear(3, 2), train=train, val=val, loss=nn.CrossEntropyLoss())
        work.model.load_state_dict(WEIGHTS)
        return identity.key(identity.identity(rg.Run(work, BASE)))

    WEIGHTS = nn.Linear(3, 2).state_dict()
    before = key_of(examples, (x, y))
    assert key_of(list(examples), (x.clone(), y.clone())) == before
    relabeled = [*examples[:417], (x[417], 1), *examples[418:]]
    assert key_of(relabeled, (x, y)) != before
    other = x.clone()
    other[417, 1] += 1.0
    assert key_of(examples, (other, y)) != before


def test_of_very_long_lists_a_part_is_read_and_that_is_said():
    examples = [(torch.zeros(2), 0)] * 20_000
    work = rg.Workload(model=nn.Linear(2, 2), train=examples, loss=nn.CrossEntropyLoss())
    assert identity.program(work)["sampled"] == {"(data): a list of 20000"}
    relabeled = [*examples[:12_345], (torch.zeros(2), 1), *examples[12_346:]]
    other = rg.Workload(model=nn.Linear(2, 2), train=relabeled, loss=nn.CrossEntropyLoss())
    assert identity.program(other)["sources"] != identity.program(work)["sources"]


def test_state_that_functions_keep_is_no_edit_within_a_study():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    x = torch.zeros(8, 2)
    work = rg.Workload(model=nn.Linear(2, 2), train=(x, torch.zeros(8).long()), loss=loss)
    with identity.kept(work):
        first = identity.identity(rg.Run(work, BASE))
        assert calls
        assert identity.identity(rg.Run(work, BASE)) == first
    assert identity.identity(rg.Run(work, BASE)) != first


def test_a_helper_of_our_own_components_counts(tmp_path, monkeypatch):
    source = identity.library.__wrapped__()
    root = tmp_path / "regimes"
    shutil.copytree(rg.__path__[0], root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "__file__", str(root / "engine" / "identity.py"))
    copy = identity.library.__wrapped__()
    assert copy.keys() == source.keys()
    helper = root / "optimizers" / "orthogonal" / "newton_schulz.py"
    helper.write_text(helper.read_text() + "\n")
    edited = identity.library.__wrapped__()
    assert [name for name in copy if edited[name] != copy[name]] == ["regimes.optimizers"]
    (root / "study" / "table.py").write_text("")
    assert identity.library.__wrapped__() == edited


def test_the_same_program_is_the_same_run_in_another_process(program, tmp_path):
    before = program()
    code = (
        "import torch, regimes as rg, mine_main, json; from regimes.engine import identity\n"
        "base = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=8, budget='4 steps')\n"
        "print(json.dumps(identity.identity(rg.Run(mine_main.work(), base))))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(found.stdout) == before


class Scaled:
    def __init__(self, by):
        self.by = by

    def __call__(self, output, target):
        return output.mean(-1) * self.by

    def method(self, output, target):
        return output.mean(-1) * self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by):
        self.by = by


def closing_over(value):
    return lambda output, target: output.mean(-1) * value


def with_attribute(value):
    def metric(output, target):
        return output.mean(-1) * metric.by

    metric.by = value
    return metric


def as_default(value):
    return lambda output, target, by=value: output.mean(-1) * by


def given(output, target, by):
    return output.mean(-1) * by


@pytest.mark.parametrize(
    "value",
    [0.5, "a", [1, 2], {"a": [0.5]}, torch.ones(3), np.ones(3), given, Scaled(1.0)],
    ids=["number", "text", "list", "dict", "tensor", "array", "function", "object"],
)
@pytest.mark.parametrize(
    "make",
    [
        closing_over,
        with_attribute,
        as_default,
        Scaled,
        Slotted,
        lambda value: Scaled(value).method,
        lambda value: functools.partial(given, by=value),
        lambda value: functools.lru_cache(closing_over(value)),
        lambda value: closing_over([{"deep": (value,)}]),
    ],
    ids=["closure", "attribute", "default", "object", "slots", "method", "partial", "cache", "deep"],
)
def test_a_value_counts_wherever_code_holds_it(make, value):
    """No line of code differs: only what it was given."""

    def read(given):
        reader = Reader()
        reader.read(make(given), "here")
        return reader.digests()

    assert read(value) == read(copy.deepcopy(value))
    assert read(value) != read(0.25)
    if isinstance(value, torch.Tensor | np.ndarray):
        assert read(value) != read(value * 2)


def test_one_part_at_two_places_is_as_two_equal_parts(work):
    """A regime that is read back from its folder holds no part twice: it is the same run."""
    rate, rule = rg.Cosine(0.1, warmup="20%"), rg.SGD(lr=0.1, momentum=0.5)
    phases = [
        rg.Phase("a", budget="40%", optimizer=rg.SGD(lr=rate), grad_transforms=[rg.ClipNorm(1.0)]),
        rg.Phase("b", budget="60%", optimizer=rg.SAM(rg.SGD(lr=rate)), average=rg.EMA(0.9)),
    ]
    regime = rg.Regime(phases, batch_size=8, budget="10 steps")
    assert identity.identity(rg.Run(work, regime)) == identity.identity(rg.Run(work, parse(repr(regime))))
    groups = rg.Regime(
        optimizer=rg.Groups([rg.Group("*.bias", rule), rg.Group("*", rule)]), batch_size=8, budget="10 steps"
    )
    assert identity.identity(rg.Run(work, groups)) == identity.identity(rg.Run(work, parse(repr(groups))))
