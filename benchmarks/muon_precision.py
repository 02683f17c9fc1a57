"""Does Muon train as well with its iteration in float32 as in bfloat16? A study of both on char_lm.

Usage: python benchmarks/muon_precision.py [--seeds 8] [--steps 300] [--json]

Same seeds, same rates, AdamW for what is no hidden matrix; judged by the final loss on held-out text, with a margin of 0.01.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import torch

import regimes as rg

MARGIN = 0.01


def regime(dtype: str, steps: int) -> rg.Regime:
    """Muon whose iteration runs in `dtype`, AdamW for the rest."""
    rule = rg.groups.muon(
        rg.Muon(lr=rg.Cosine(0.02, warmup="5%"), weight_decay=0.0, iteration_dtype=dtype),
        rest=rg.AdamW(lr=rg.Cosine(3e-3, warmup="5%")),
    )
    return rg.Regime(optimizer=rule, batch_size=16, budget=f"{steps} steps")


def main() -> None:
    """Print the verdict, and JSON with --json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    arms = {dtype: regime(dtype, args.steps) for dtype in ("bfloat16", "float32")}
    work = rg.workloads.load("char_lm")
    with tempfile.TemporaryDirectory() as folder:
        study = rg.compare(work, arms, metric="loss", margin=MARGIN, seeds=args.seeds, out=folder, progress=False)
    found = study.to_dict()["arms"][1]["comparison"]
    if args.json:
        interval = [found["low"], found["difference"], found["high"]]
        print(json.dumps({"verdict": found["verdict"], "margin": MARGIN, "improvement": interval}))
        return
    print(study)


if __name__ == "__main__":
    main()
