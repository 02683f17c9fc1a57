"""A small PyTorch training of somebody's own, in a repository: a script and a package, with bugs to plant."""

import subprocess
import sys
import textwrap

import regimes as rg

LOOP = '''
"""The loop."""
import torch
from tiny.data import batches
from tiny.model import Net
from tiny.rates import rate

STEPS, WARMUP, PEAK, ACCUMULATE = 24, 8, 0.01, 3


def groups(model):
    """Decay for matrices alone."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def train(seed):
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(groups(model), lr=PEAK, momentum=0.9)
    loss_function = torch.nn.CrossEntropyLoss(reduction="sum")
    chunks = batches(seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, STEPS, WARMUP, PEAK)
        optimizer.zero_grad()
        parts = [next(chunks) for _ in range(ACCUMULATE)]
        total = sum(len(y) for _, y in parts)
        for x, y in parts:
            loss = loss_function(model(x), y) / total
            loss.backward()
        optimizer.step()
    return model
'''
RATES = '''
"""Rates."""


def rate(step, steps, warmup, peak):
    """Linear warm-up, then linear decay."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / (steps - warmup)
'''
MODEL = '''
"""The model."""
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        hidden = self.norm(self.first(x).relu())
        return self.last(hidden)
'''
DATA = '''
"""The data."""
import torch

SIZE, VAL, WIDTH, BATCH = 768, 96, 6, 8


def examples():
    generator = torch.Generator().manual_seed(12)
    x = torch.randn(SIZE + VAL, WIDTH, generator=generator)
    teacher = torch.randn(WIDTH, 3, generator=generator)
    noise = 0.5 * torch.randn(SIZE + VAL, 3, generator=generator)
    y = (x @ teacher + noise).argmax(1)
    order = y[:SIZE].argsort(stable=True)  # as files often are: sorted by label
    return (x[:SIZE][order], y[:SIZE][order]), (x[SIZE:], y[SIZE:])


def batches(seed):
    (x, y), _ = examples()
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(SIZE, generator=generator)
        for start in range(0, SIZE, BATCH):
            rows = order[start : start + BATCH - (start // BATCH) % 3]
            yield x[rows], y[rows]
'''
SCRIPT = """
import json
import sys

import torch
from tiny.data import examples
from tiny.loop import train

torch.set_num_threads(1)
seed, out = int(sys.argv[1]), sys.argv[2]
model = train(seed).eval()
_, (x, y) = examples()
with torch.no_grad():
    loss = torch.nn.functional.cross_entropy(model(x), y)
with open(out + "/metrics.json", "w") as file:
    json.dump({"val_loss": loss.item()}, file)
"""
GUARD = f"""
workload:
  command: {sys.executable} train.py {{seed}} {{out}}
  metric: "{{out}}/metrics.json:val_loss"
guard:
  margin: 0.003
  seeds: 6
  pythonpath: src
"""
#: File -> text of the version that is right.
FILES = {
    "src/tiny/__init__.py": "",
    "src/tiny/loop.py": LOOP,
    "src/tiny/rates.py": RATES,
    "src/tiny/model.py": MODEL,
    "src/tiny/data.py": DATA,
    "train.py": SCRIPT,
    "guard.yaml": GUARD,
    ".gitignore": "runs/\n__pycache__/\n",
}


class Repository:
    """A git repository with that training, and the runs of its guards beside it."""

    def __init__(self, folder):
        self.folder, self.runs = folder / "repository", folder / "runs"
        self.folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.write(FILES)
        self.commit("right")

    def git(self, *words):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(["git", *who, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def write(self, files):
        for name, text in files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(textwrap.dedent(text).lstrip("\n"))

    def commit(self, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def replaced(self, file, *pairs):
        """Files with pieces of one replaced, each of which has to occur."""
        text = FILES[file]
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return {file: text}

    def guarded(self, **asked):
        """The verdict on the working tree against the commit that is right."""
        asked = {"base": "HEAD", "out": self.runs, "progress": False} | asked
        return rg.guard(self.folder / "guard.yaml", **asked)

    def restore(self):
        self.git("checkout", "--quiet", "--force", "HEAD", "--", ".")
        self.git("clean", "--quiet", "-d", "--force")


def planted(repository):
    """The bugs of the acceptance: files, and the part of the step in which each is."""
    return {
        "accumulation normaliser": (
            repository.replaced("src/tiny/loop.py", ("/ total", "/ total / ACCUMULATE")),
            "the loss (forward)",
        ),
        "off-by-one in warm-up": (
            repository.replaced("src/tiny/rates.py", ("(step + 1) / warmup", "step / warmup")),
            "the optimizer's settings",
        ),
        "decay applied to norms": (
            repository.replaced("src/tiny/loop.py", ('"weight_decay": 0.0', '"weight_decay": 0.1')),
            "the optimizer's settings",
        ),
        "shuffled data not shuffled": (
            repository.replaced(
                "src/tiny/data.py", ("torch.randperm(SIZE, generator=generator)", "torch.arange(SIZE)")
            ),
            "the data",
        ),
    }
