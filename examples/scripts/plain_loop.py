"""Somebody's own training loop, as it is: `regimes compare examples/scripts/plain_loop.yaml` runs and judges it."""

import argparse
import json
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

arguments = argparse.ArgumentParser()
arguments.add_argument("--optimizer", choices=["SGD", "AdamW"], required=True)
arguments.add_argument("--lr", type=float, required=True)
arguments.add_argument("--seed", type=int, required=True)
arguments.add_argument("--out", type=Path, required=True)
given = arguments.parse_args()

torch.set_num_threads(1)
digits = load_digits()
x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # one split for all runs
train, val = shuffled[:1200], shuffled[1200:]

torch.manual_seed(given.seed)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = getattr(torch.optim, given.optimizer)(model.parameters(), lr=given.lr)
with (given.out / "log.jsonl").open("w") as log:
    for epoch in range(3):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(x[val]), y[val]).item()
        log.write(json.dumps({"step": (epoch + 1) * 38, "val_loss": loss}) + "\n")
(given.out / "metrics.json").write_text(json.dumps({"val_loss": loss}))
