"""Optimizer and schedule of regimes in transformers' Trainer, on a tiny model with random first weights."""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import regimes as rg

STEPS, BATCH, LENGTH = 150, 16, 24


class Counting(Dataset):
    """Sequences that count up modulo 16 from any number: all but the first number can be known."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        numbers = (torch.arange(LENGTH) + index) % 16
        return {"input_ids": numbers, "labels": numbers}


torch.manual_seed(0)
config = GPT2Config(
    vocab_size=16, n_positions=LENGTH, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
)  # fmt: skip
model = GPT2LMHeadModel(config)

decayed = [p for p in model.parameters() if p.ndim > 1]
others = [p for p in model.parameters() if p.ndim < 2]
optimizer = rg.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-2, weight_decay=0.1)
scheduler = rg.lr_scheduler(optimizer, rg.WSD(1e-2, warmup="5%", decay="20%"), f"{STEPS} steps")

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=BATCH, use_cpu=True, save_strategy="no", report_to=[],
        logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=Counting(), optimizers=(optimizer, scheduler))
    trainer.train()

model.eval()
numbers = torch.stack([Counting()[index]["input_ids"] for index in range(16)])
right = (model(numbers).logits[:, :-1].argmax(-1) == numbers[:, 1:]).float().mean().item()
print(f"{trainer.state.global_step} steps, rate at the end {scheduler.get_last_lr()[0]:.4f}")
print(f"the next number is right in more than 95%: {right > 0.95}")
