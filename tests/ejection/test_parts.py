"""Each part that a script may have, by itself: the script agrees with the engine to the bit, reads clean, has no dead line."""

import pytest
from watched_scripts import dead_lines, ruff

import regimes as rg
from regimes.core.notation import parse
from regimes.ejection import check, eject
from regimes.testing.conformance.tiny import one_thread

ONE = {"optimizer": "SGD(lr=0.05, momentum=0.9)", "batch_size": 4, "budget": "40 steps"}
PARTS = {
    "torch.optim.SGD(parameters, lr=0.05, momentum=0.9, fused=True)": {},
    "torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1, fused=True)": {
        "optimizer": "AdamW(0.01, weight_decay=0.1)"
    },
    'optimizer.param_groups[0]["betas"] = (betas_0(done), 0.999)': {
        "optimizer": "AdamW(betas=[Linear(0.8, 0.9), 0.999])"
    },
    "rg.optim.Lion(parameters, lr=0.01)": {"optimizer": "Lion(0.01)"},
    "torch.optim.Adagrad(parameters, lr=0.1)": {"optimizer": "Torch('Adagrad', lr=0.1)"},
    "with optimizer.evaluating():": {"optimizer": "ScheduleFreeAdamW(lr=0.01)"},
    "with torch.no_grad(), optimizer.evaluating():": {"optimizer": "ScheduleFreeSGD(lr=0.1)", "average": "EMA(0.9)"},
    'name.endswith(".bias"):': {"optimizer": "Groups([Group('*.bias', SGD(lr=0.1)), Group('*', SGD(lr=Linear(0.1)))])"},
    "optimizers[1].evaluating()": {
        "optimizer": "Groups([Group('@vectors', SGD(lr=0.1)), Group('*', ScheduleFreeSGD(lr=0.1))])"
    },
    "rg.optim.Muon(groups[0], lr=0.02)": {
        "optimizer": "Groups([Group('0.weight', Muon(lr=0.02)), Group('*', AdamW())])"
    },
    'groups[1], "lr": 0.1': {
        "optimizer": "Groups([Group('*.bias', SGD(lr=0.2)), Group('0.*|1.*', Groups([Group('@vectors', SGD(lr=0.1)), "
        "Group('*', SGD(lr=0.3))])), Group('*', SGD(lr=0.2))])"
    },
    "sizes = [p.abs() + eta(done) for p in parameters]": {
        "optimizer": "SAM(SGD(lr=0.05), rho=0.3, adaptive=True, eta=Linear(0.5, 0.1))",
    },
    "climb = [p.grad for p in parameters]": {"optimizer": "SAM(SGD(lr=0.05))", "grad_transforms": ["ClipNorm(0.5)"]},
    "climb = [g * t for g, t in zip(climb, sizes)]": {
        "optimizer": "SAM(AdamW(), rho=Linear(0.1, 0.01), adaptive=True)",
        "micro_batch": 2,
    },
    "move(parameters, -lr(done) * slope, streams, step)": {"optimizer": "MeZO(lr=Linear(1e-3), weight_decay=0.1)"},
    "torch.nn.utils.clip_grad_norm_(parameters, 0.1)": {"grad_transforms": ["ClipNorm(0.1)"], "batch_size": 6},
    "clip_grad_value_(parameters, clip_value(done))": {"grad_transforms": ["ClipValue(Linear(0.1, 0.5))"]},
    "* (1 + step) ** (-0.55 / 2))": {"grad_transforms": ["Noise(0.1, decay=0.55)"]},
    "for number, start in enumerate(range(0, 6, 2)):": {"batch_size": 6, "micro_batch": 2},
    "zip(parameters, summed(parts))": {"batch_size": 7, "micro_batch": 1, "task": "tokens"},
    "a.lerp_(p, 1 - 0.9)": {"average": "EMA(0.9)"},
    'rg.SWA(start="50%", every="2 steps")': {"average": "SWA(start='50%', every='2 steps')"},
    "phase_samples=samples": {"average": "LAWA(window=3, every='12 samples')"},
    "math.floor(batch_size(done) + 0.5)": {"batch_size": "Linear(4, 9)", "budget": "200 samples"},
    "waiting = collections.deque(": {"batch_size": "Linear(4, 9)", "lag": 2},
    "while tokens < 900:": {"batch_size": "Linear(4, 9)", "budget": "900 tokens", "task": "tokens"},
    'rg.Batches(work, rg.Stratified(), SEED, "main")': {"sampler": "Stratified()"},
    "weights = torch.from_numpy(drawn.weights)": {"sampler": "LossWeighted()"},
    ".repeat_interleave(len(losses) // len(part))": {"sampler": "LossWeighted()", "micro_batch": 3, "task": "tokens"},
    '"length": math.floor(sampler_length(done) + 0.5)': {
        "sampler": "LengthCurriculum(Linear(8, 16))",
        "task": "tokens",
    },
    '{"a": mixture_a(done)}': {"mixture": "Mixture(a=Linear(1.0, 0.2), b=0.5)"},
    "rg.Mixture(a=0.5, b=0.5, sampler=rg.LossWeighted())": {
        "mixture": "Mixture(a=0.5, b=0.5)",
        "sampler": "LossWeighted()",
    },
    "chosen[scores.argsort(": {"selector": "HighLoss(0.3)", "batch_size": 6},
    "chosen = chosen.split(lengths)": {
        "selector": "HighLoss(0.3)",
        "batch_size": 6,
        "micro_batch": 4,
        "sampler": "LossWeighted()",
    },
    "rg.MaskWords(": {"augment": ["MaskWords(0.8, letters='\\x00-\\x06')"], "task": "tokens"},
    "label_smoothing=label_smoothing(done)": {"loss": "CrossEntropy(Linear(0.2))"},
    "units = work.loss(model, batch)": {"task": "values"},
    "(model(x) - y).square().flatten(1).mean(1)": {"task": "values", "loss": "MSE()"},
    "F.binary_cross_entropy_with_logits(": {"task": "binary"},
    "dtype=torch.bfloat16": {"precision": "bfloat16", "task": "tokens"},
    'if name.startswith("4.")': {"trainable": ["4.*"]},
    "p.requires_grad_(False)": {"on_entry": ["Freeze('0.*')"]},
    '.fill(model, model, iter(()), Streams(SEED, "main", "on_entry", 0))': {"on_entry": ["Reinitialise('4.*')"]},
    "if (step + 1) % 4 == 0:": {"optimizer": "SGD(lr=0.1 * Plateau(factor=0.5, patience=1))", "evaluate": "4 steps"},
    "measured = validate(model)": {
        "optimizer": "ScheduleFreeSGD(lr=Linear(0.5) * Plateau(factor=0.5, patience=0))",
        "evaluate": "9%",
    },
    '.observe(plateau_state, {"loss": loss.item()}, None)': {"optimizer": "SGD(lr=0.5 * Plateau('loss', patience=2))"},
    "max(chosen[number].sum().item(), 1e-30)": {
        "batch_size": "NoiseScaleGrowth(8, 32, patience=3, growth=2.0)",
        "micro_batch": 2,
        "selector": "HighLoss(0.2)",
    },
    "F.binary_cross_entropy_with_logits(model(x), y, ": {"loss": "BCE()", "precision": "bfloat16", "task": "values"},
    '            {"temperature": 1.5 * temperature(done), "uniform": ': {  # too long for a line inside the loop alone
        "sampler": "LossWeighted(1.5 * Then(Linear(1.0, 0.5), Linear(0.5, 0.1), '50%'), "
        "uniform=0.010000000000000002 * Linear(0.1, 0.01))",
    },
    "noisescalegrowth.observe(": {"batch_size": "NoiseScaleGrowth(4, 16, patience=3, growth=2.0)", "micro_batch": 2},
}


def declared(fields):
    fields = ONE | fields
    task = fields.pop("task", "classes")
    regime = {k: v for k, v in fields.items() if k != "budget"}
    given = {k: [parse(one) for one in v] if isinstance(v, list) and k != "trainable" else v for k, v in regime.items()}
    given = {k: parse(v) if isinstance(v, str) and "(" in v else v for k, v in given.items()}
    sources = ["a", "b"] if "mixture" in fields else []
    spec = {"name": "regimes.testing.conformance.tiny:workload", "task": task, "sources": tuple(sources)}
    return spec, rg.Regime(budget=fields["budget"], **given)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.mark.parametrize("shown", PARTS)
def test_a_part(shown, tmp_path):
    spec, regime = declared(PARTS[shown])
    text = eject(spec, regime, seed=5)
    assert shown in text
    found = check(spec, regime, seed=5)
    assert found.finished
    assert found.differing == []
    file = tmp_path / "train.py"
    file.write_text(text)
    assert ruff(file) == []
    assert dead_lines(text, file) == []
    assert (tmp_path / "train.pt").exists()
