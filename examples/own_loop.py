"""Parts of regimes in a training loop of one's own: each stands alone, and the loop stays yours.

Probes are functions of (model, loss_fn, batch): they measure in the mode that the model is in, and leave weights,
gradients, buffers, modes and random states exactly as they were.
"""

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

import regimes as rg
from regimes.core.kinds import SourceView, TransformContext
from regimes.samplers.preview import draws

STEPS, BATCH = 120, 64
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))
criterion = nn.CrossEntropyLoss()


def examples(count: int, noise: float) -> TensorDataset:
    """Three classes by the first two numbers; noise flips some."""
    x = torch.randn(count, 20)
    seen = x + noise * torch.randn_like(x)
    return TensorDataset(x, (seen[:, 0] > 0).long() + (seen[:, 1] > 0.5).long())


sources = {"clean": examples(512, 0.0), "noisy": examples(512, 0.5)}
x, y = sources["clean"].tensors

# -- a mixture as the batch sampler of a DataLoader: less and less of the noisy source ---------------------------------

view = SourceView({name: len(data) for name, data in sources.items()}, column=lambda source, name: None)
first = np.array([0, len(sources["clean"])])  # where each source begins in the data set of both
mixture = rg.Mixture(clean=rg.Linear(0.5, 0.9), noisy=rg.Linear(0.5, 0.1))
drawn = [(first[d.sources] + d.indices).tolist() for d in draws(mixture, view, BATCH, seed=0, batches=STEPS)]
loader = DataLoader(ConcatDataset(sources.values()), batch_sampler=drawn)

# -- optimizers and schedules of ours under torch's protocol -----------------------------------------------------------

parameters = dict(model.named_parameters())
hidden = [parameters["0.weight"]]
rest = [p for name, p in parameters.items() if name != "0.weight"]
optimizers = [rg.optim.Muon(hidden, lr=0.02), rg.optim.AdamW(rest, lr=1e-2, weight_decay=0.01)]
schedules = [rg.WSD(0.02, decay="30%"), rg.Cosine(1e-2, warmup="5%") * rg.Linear(1.0, 0.5)]
schedulers = [rg.lr_scheduler(*pair, f"{STEPS} steps") for pair in zip(optimizers, schedules)]

# -- a gradient transform and an average: state goes in and comes back -------------------------------------------------

clip, clip_state = rg.ClipNorm(1.0), rg.ClipNorm(1.0).init(parameters)
context = TransformContext(tuple(parameters), tuple(parameters.values()), generator=None, units=BATCH)
ema = rg.EMA(0.95)
average = ema.init(parameters)


# -- probes ------------------------------------------------------------------------------------------------------------


def mean_loss(net: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss as the loop has it; a criterion without reduction or a loss of regimes does as well."""
    return criterion(net(batch[0]), batch[1])


def fixed_batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same disjoint batches at every call: what the noise scale is estimated on."""
    return [(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size]) for i in range(min(count, len(x) // size))]


def observe(step: int, batch: list[torch.Tensor], before: dict[str, torch.Tensor]) -> None:
    """Print what four probes say."""
    ratio = rg.UpdateRatio()(model, mean_loss, batch, previous=before)[""]
    noise = rg.GradientNoiseScale()(model, mean_loss, batch, batches=fixed_batches, size=len(x))
    sharp = rg.Sharpness()(model, mean_loss, (x[:256], y[:256]))
    hardest = rg.ExampleLoss(hardest=1)(model, rg.CrossEntropy(), tuple(batch))["hardest_1"]
    print(
        f"step {step:3}  update/weight {ratio:.4f}  noise scale {noise['']:6.1f} [{noise['low']:.0f}, {noise['high']:.0f}]"
        f"  sharpness {sharp['']:6.2f} ({sharp['iterations']} products)  hardest {hardest:.2f}"
    )


# -- the loop ----------------------------------------------------------------------------------------------------------

for step, batch in enumerate(loader):
    before = {name: p.detach().clone() for name, p in parameters.items()}
    model.zero_grad()
    mean_loss(model, batch).backward()
    clip.apply(clip_state, tuple(p.grad for p in parameters.values()), context)  # in place
    for part in (*optimizers, *schedulers):
        part.step()
    average = ema.observe(average, {"weights": parameters}, rg.Progress(step=step))
    if step % 40 == 0:
        observe(step, batch, before)

model.eval()
with torch.no_grad():
    right = (functional_call(model, ema.average(average), (x,)).argmax(1) == y).float().mean().item()
noisy = sum(index >= len(x) for index in drawn[0]) / BATCH, sum(index >= len(x) for index in drawn[-1]) / BATCH
rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
print(f"noisy examples in the first and the last batch: {noisy[0]:.0%}, {noisy[1]:.0%}; rates at the end {rates}")
print(f"averaged weights are right in more than 90%: {right > 0.9}")
