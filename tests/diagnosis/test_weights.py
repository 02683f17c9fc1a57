"""A run of MeZO, made again from its log of scalars: to the bit, at every step, from a folder and from memory."""

import pytest
import torch

import regimes as rg
from regimes.core.errors import DeclarationError
from regimes.diagnosis import weights_at

AWKWARD = rg.Regime(
    optimizer=rg.MeZO(lr=rg.Cosine(0.01, warmup="20%"), eps=rg.Linear(1e-2, 1e-3), weight_decay=0.1),
    batch_size=16, micro_batch=5, sampler=rg.LossWeighted(), trainable=["*weight"], budget="12 steps",
)  # fmt: skip


def digits():
    return rg.workloads.load("digits_mlp", hidden=[8], examples=128)


@pytest.mark.exact("MeZO")
def test_every_step_comes_out_to_the_bit():
    run = rg.Run(digits(), AWKWARD, seed=4)
    there = [{name: p.detach().clone() for name, p in run.parameters.items()}]
    while not run.finished:
        run.step()
        there.append({name: p.detach().clone() for name, p in run.parameters.items()})
    made = rg.run(digits(), AWKWARD, seed=4)
    assert not there[0]["layers.0.weight"].equal(there[-1]["layers.0.weight"])
    for step, weights in enumerate(there):
        found = weights_at(made, step)
        assert found.keys() == weights.keys()
        assert all(found[name].equal(value) for name, value in weights.items()), step


@pytest.mark.exact("MeZO")
def test_records_on_disk_are_enough(tmp_path):
    spec = {"name": "digits_mlp", "hidden": [8], "examples": 128}
    made = rg.run(rg.workloads.load(**spec), AWKWARD, seed=4, out=tmp_path / "run", workload_spec=spec)
    trained = dict(made.model.named_parameters())
    (tmp_path / "run" / "final" / "model.safetensors").unlink()
    found = weights_at(tmp_path / "run")
    assert all(value.equal(trained[name]) for name, value in found.items())


def test_what_has_no_such_log_is_refused():
    made = rg.run(digits(), AWKWARD.but(optimizer=rg.SGD(lr=0.1)), seed=0)
    with pytest.raises(DeclarationError, match="allowed: a regime of one phase, of MeZO"):
        weights_at(made)
    with pytest.raises(DeclarationError, match="step: got 13; allowed: 0 to 12"):
        weights_at(rg.run(digits(), AWKWARD, seed=0), 13)


def test_the_last_number_of_the_log_decides():
    """A log with one figure changed in its last place gives other weights: nothing else is read."""
    made = rg.run(digits(), AWKWARD, seed=4)
    made.records[3]["projected_gradient"] *= 1.0 + 1e-5
    assert not torch.equal(weights_at(made)["layers.0.weight"], dict(made.model.named_parameters())["layers.0.weight"])
