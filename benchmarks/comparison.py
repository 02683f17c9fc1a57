"""`regimes compare` from the command line, start-up and report included, against the same runs in a hand-written loop.

32 learning rates on digits_mlp (or, with --demo, the char_lm comparison of the demo): the wall time of both, in turn. The
loop validates nothing, ours at the end of each run.

Usage: python benchmarks/comparison.py [--epochs 200] [--rounds 3] [--demo] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATES = 32
HAND = """
import sys
sys.path.insert(0, {here!r})
import torch
import regimes as rg
from by_hand import loop

torch.set_num_threads({threads})
work = rg.workloads.load({workload!r})
source = next(iter(work.sources["train"].values()))
if {tokens}:
    import numpy as np
    inputs, targets = source.fetch(np.arange(len(source)), {{}})
else:
    inputs, targets = source.parts["0"], source.parts["1"]
for place in range({runs}):
    steps = loop(
        work.build(place % {seeds}), inputs, targets, batch={batch}, steps={steps}, peak=1e-4 * 100 ** (place / {runs}),
        kernel=False, tokens={tokens}, log=__import__("pathlib").Path({folder!r}) / f"{{place}}.jsonl",
    )
    for _ in steps:
        pass
"""


def declaration(demo: bool, epochs: int) -> tuple[str, dict[str, object]]:
    """The study's file, and what the loop by hand has to know."""
    if demo:
        arms = {"adamw": "AdamW(lr=3e-3)", "lion": "Lion(lr=3e-4)"}
        steps, seeds, batch, workload = 300, 8, 16, "char_lm"
    else:
        arms = {f"r{i}": f"AdamW(lr={1e-4 * 100 ** (i / RATES):.6g})" for i in range(RATES)}
        steps, seeds, batch, workload = epochs * 1197 // 64, 1, 64, "digits_mlp"
    lines = [f"workload: {workload}", "arms:"]
    lines += [
        f"  {name}: {{optimizer: '{rule}', batch_size: {batch}, budget: {steps} steps}}" for name, rule in arms.items()
    ]
    lines += [f"compare: {{metric: val/loss, margin: 0.01, seeds: {seeds}, validate: null}}"]
    facts = {"workload": workload, "tokens": demo, "runs": len(arms) * seeds, "seeds": max(seeds, 1)}
    return "\n".join(lines) + "\n", facts | {"batch": batch, "steps": steps}


def timed(command: list[str], folder: Path) -> float:
    """Wall seconds of a command."""
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the ratio, or JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    text, facts = declaration(args.demo, args.epochs)
    hand, ours = [], []
    with tempfile.TemporaryDirectory() as made:
        for number in range(args.rounds):
            folder = Path(made) / str(number)
            folder.mkdir()
            (folder / "study.yaml").write_text(text)
            (folder / "hand").mkdir()
            # One thread for tensors this small, all cores for the language model: what is faster for the loop.
            threads = 2 if args.demo else 1
            script = HAND.format(**facts, here=str(Path(__file__).parent), folder=str(folder / "hand"), threads=threads)
            hand.append(timed([sys.executable, "-c", script], folder))
            ours.append(timed([sys.executable, "-m", "regimes", "compare", "study.yaml"], folder))
    ratios = sorted(h / o for h, o in zip(hand, ours))
    found = [ratios[0], statistics.median(ratios), ratios[-1]]
    if args.json:
        print(json.dumps({"facts": facts, "hand s": hand, "regimes s": ours, "hand over regimes": found}))
        return
    print(f"{facts['runs']} runs of {facts['steps']} steps on {facts['workload']}: by hand {statistics.median(hand):.1f} s, "
          f"regimes compare {statistics.median(ours):.1f} s: {found[1]:.2f}x [{found[0]:.2f}, {found[2]:.2f}]")  # fmt: skip


if __name__ == "__main__":
    main()
