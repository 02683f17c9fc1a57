"""A script with the transformers Trainer, as it is: `regimes compare examples/scripts/trainer_script.yaml` judges it."""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

arguments = argparse.ArgumentParser()
arguments.add_argument("--schedule", choices=["linear", "cosine", "constant"], required=True)
arguments.add_argument("--lr", type=float, required=True)
arguments.add_argument("--seed", type=int, required=True)
arguments.add_argument("--out", type=Path, required=True)
given = arguments.parse_args()


class Digits(Dataset):
    """Digits by number."""

    def __init__(self, numbers):
        digits = load_digits()
        self.x, self.y = torch.tensor(digits.data[numbers], dtype=torch.float32) / 16, digits.target[numbers]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, number):
        return {"x": self.x[number], "labels": int(self.y[number])}


class Net(nn.Module):
    """A classifier that says its loss, as the Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x, labels):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


torch.set_num_threads(1)
shuffled = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).numpy()
torch.manual_seed(given.seed)
asked = TrainingArguments(
    output_dir=str(given.out), learning_rate=given.lr, lr_scheduler_type=given.schedule, num_train_epochs=3, seed=given.seed,
    per_device_train_batch_size=32, per_device_eval_batch_size=256, eval_strategy="epoch", save_strategy="no",
    report_to="none", use_cpu=True, disable_tqdm=True,
)  # fmt: skip
trainer = Trainer(Net(), asked, train_dataset=Digits(shuffled[:1200]), eval_dataset=Digits(shuffled[1200:]))
trainer.train()
trainer.save_state()  # trainer_state.json, with the log
log = [row for row in trainer.state.log_history if "eval_loss" in row]
(given.out / "eval.csv").write_text(
    "step,eval_loss\n" + "".join(f"{row['step']},{row['eval_loss']!r}\n" for row in log)
)
