"""Optimizer, schedule and sampler of regimes in a LightningModule; the Trainer stays as it is."""

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regimes as rg
from regimes.samplers import TorchBatches

EPOCHS, BATCH = 6, 32


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 3))

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self):
        optimizer = rg.optim.AdamW(self.parameters(), lr=1e-2, weight_decay=0.01)
        steps = self.trainer.estimated_stepping_batches
        scheduler = rg.lr_scheduler(optimizer, rg.Cosine(1e-2, warmup="5%"), f"{steps} steps")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


torch.manual_seed(0)
x = torch.randn(960, 20)
y = (x[:, 0] > 0).long() + (x[:, 0] > 1.5).long()  # the third class is rare

# Every batch holds the classes in proportion, one or two examples of the rare one.
batches = TorchBatches(rg.Stratified("label"), len(x), BATCH, batches=len(x) // BATCH, label=y)
loader = DataLoader(TensorDataset(x, y), batch_sampler=batches)
model = Classifier()
trainer = lightning.Trainer(
    max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, use_distributed_sampler=False,
)  # fmt: skip
trainer.fit(model, loader)

held = [(y[batch] == 2).sum().item() for batch in batches]
right = (model.net(x).argmax(1) == y).float()
rate = trainer.optimizers[0].param_groups[0]["lr"]
print(
    f"{trainer.global_step} steps, rate at the end {rate:.4f}; of the rare class {min(held)} to {max(held)} in a batch"
)
print(f"right in more than 95%: {right.mean().item() > 0.95}")
