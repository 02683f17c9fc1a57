"""A Lightning script, as it is: `regimes compare examples/scripts/lightning_script.yaml` runs and judges it."""

import argparse
import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

arguments = argparse.ArgumentParser()
arguments.add_argument("--lr", type=float, required=True)
arguments.add_argument("--momentum", type=float, required=True)
arguments.add_argument("--seed", type=int, required=True)
arguments.add_argument("--out", required=True)
given = arguments.parse_args()


class Digits(LightningModule):
    """A classifier of digits."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=given.lr, momentum=given.momentum)


warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
torch.set_num_threads(1)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, val = random_split(data, [1200, len(data) - 1200], torch.Generator().manual_seed(0))
seed_everything(given.seed, verbose=False)
trainer = Trainer(
    max_epochs=3, logger=CSVLogger(given.out, name="", version=""), accelerator="cpu", enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
)  # fmt: skip
trainer.fit(Digits(), DataLoader(train, 32, shuffle=True), DataLoader(val, 256))
