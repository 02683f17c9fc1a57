"""Alignments against explicit Jacobians, closed forms and models that cannot but be lazy; step 0 in runs."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import regimes as rg
from regimes.engine import trees
from regimes.engine.api import Session
from regimes.probes.laziness import alignment, tangent_kernel
from regimes.testing.conformance import tiny
from regimes.workloads.models import TinyGPT


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def inputs(n=5, seed=1):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_loss(model, batch):
    return model(batch).square().mean()


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def trained(model, steps=40, lr=0.3, batch=None):
    """The model, moved far, and the weights that it began with."""
    initial, optimizer = weights_of(model), torch.optim.SGD(model.parameters(), lr=lr)
    target = torch.linspace(-2, 2, 4, dtype=torch.float64)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(inputs() if batch is None else batch) - target).square().mean().backward()
        optimizer.step()
    return model, initial


def kernel_by_loop(model, x, names=None):
    """J J^T with one backward for each output."""
    chosen = [p for name, p in model.named_parameters() if names is None or name in names]
    rows = []
    for value in model(x).reshape(-1):
        g = torch.autograd.grad(value, chosen, retain_graph=True)
        rows.append(torch.cat([piece.reshape(-1) for piece in g]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def kernel_of(model, x, outputs=100):
    return tangent_kernel(model, dict(model.named_parameters()), list(weights_of(model)), (x,), {}, outputs)


def same(found, wanted, rel=1e-12):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=rel, abs=rel), name


UNMOVED = {"weight_change": 0.0, "representation_alignment": 1.0, "kernel_alignment": 1.0}

NETS = {
    "tanh": net,
    "batch norm and dropout": lambda: nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4)
    ).double(),
    "layer norm": lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4)).double(),
}


@pytest.mark.exact("Laziness")
@pytest.mark.parametrize("name", NETS)
def test_kernel_equals_one_backward_for_each_output(name):
    torch.manual_seed(4)
    model, x = NETS[name]().eval(), inputs(70)  # 280 rows: several chunks
    torch.testing.assert_close(kernel_of(model, x), kernel_by_loop(model, x).detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.exact("Laziness")
def test_kernel_of_a_two_layer_linear_network_in_closed_form():
    """f = A W x: with A (k, h) and W (h, d), K = (x . x') A A^T + (W x . W x') I."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 6, bias=False), nn.Linear(6, 2, bias=False)).double(), inputs()
    a, hidden = model[1].weight, model[0](x)
    wanted = torch.kron(x @ x.T, a @ a.T) + torch.kron(hidden @ hidden.T, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(kernel_of(model, x), wanted.detach(), rtol=1e-12, atol=1e-12)


def test_kernel_of_some_outputs_and_parameters():
    model, x = net(), inputs()
    some = tangent_kernel(model, dict(model.named_parameters()), ["0.weight", "2.bias"], (x,), {}, outputs=2)
    whole = kernel_by_loop(model, x, ["0.weight", "2.bias"])
    kept = [4 * example + output for example in range(5) for output in (0, 2)]
    torch.testing.assert_close(some, whole[kept][:, kept].detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.exact("Laziness")
def test_values_equal_the_formulas_between_two_networks():
    model, initial = trained(net())
    x = inputs(7, seed=9)
    began = net()
    began.load_state_dict(initial)
    grams = [(h @ h.T).detach() for h in (m[1](m[0](x)) for m in (began, model))]
    kernels = [kernel_by_loop(m, x).detach() for m in (began, model)]

    def cosine(a, b):
        return functional.cosine_similarity(a.reshape(-1), b.reshape(-1), dim=0).item()

    old = torch.cat([p.reshape(-1) for p in initial.values()])
    new = torch.cat([p.reshape(-1) for p in weights_of(model).values()])
    found = rg.Laziness()(model, mean_loss, x, initial=initial)
    wanted = {
        "weight_change": ((new - old).norm() / old.norm()).item(),
        "representation_alignment": cosine(*grams),
        "kernel_alignment": cosine(*kernels),
    }
    same(found, wanted)
    assert found["weight_change"] > 0.1
    assert found["kernel_alignment"] < 0.99


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_without_training_nothing_has_changed(name, training):
    model = NETS[name]().train(training)
    model(inputs())  # running statistics move, weights do not
    same(rg.Laziness()(model, mean_loss, inputs(), initial=weights_of(model)), UNMOVED)


class Scaled(nn.Module):
    def __init__(self, inner, factor):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


@pytest.mark.exact("Laziness")
@pytest.mark.parametrize("factor", [-1.0, 1e-3, 1e4])
def test_kernel_alignment_does_not_depend_on_the_scale_of_the_output(factor):
    model, initial = trained(net())
    plain = rg.Laziness()(model, mean_loss, inputs(), initial=initial)
    initial = {f"inner.{name}": p for name, p in initial.items()}
    same(rg.Laziness()(Scaled(model, factor), mean_loss, inputs(), initial=initial), plain)


class Polynomial(nn.Module):
    """Linear in its parameters, not in its inputs."""

    def __init__(self):
        super().__init__()
        self.readout = nn.Linear(9, 4).double()

    def forward(self, x):
        return self.readout(torch.cat([x, x**2, x.sin()], 1))


@pytest.mark.exact("Laziness")
def test_a_model_linear_in_its_parameters_is_lazy_however_far_it_goes():
    torch.manual_seed(0)
    model, initial = trained(Polynomial(), steps=200)
    found = rg.Laziness()(model, mean_loss, inputs(8, seed=3), initial=initial)
    assert found["weight_change"] > 1.0
    same({k: v for k, v in found.items() if k != "weight_change"}, {k: 1.0 for k in UNMOVED if k != "weight_change"})


def test_frozen_parameters_are_in_the_network_but_not_in_the_kernel():
    model, initial = trained(net())
    model[0].requires_grad_(False)
    began = net()
    began.load_state_dict(initial)
    kernels = [
        kernel_by_loop(m, inputs(), ["2.weight", "2.bias"]).detach() for m in (began, model.requires_grad_(True))
    ]
    model[0].requires_grad_(False)
    found = rg.Laziness()(model, mean_loss, inputs(), initial=initial)
    assert found["kernel_alignment"] == pytest.approx(alignment(*kernels), rel=1e-12)


def test_where_nothing_is_there_is_no_alignment():
    model = net()
    zero = {name: torch.zeros_like(p) for name, p in weights_of(model).items()}
    found = rg.Laziness()(model, mean_loss, inputs(), initial=zero)
    assert found["weight_change"] == math.inf
    assert math.isnan(found["representation_alignment"])
    assert 0.0 < found["kernel_alignment"] < 1.0  # of the last biases


@pytest.mark.parametrize(
    ("initial", "sentence"),
    [
        (None, "initial: needs a value: the weights at step 0, by parameter name"),
        ({}, r"initial: got weights in which '0\.weight' is absent, but now it has the shape \(6, 3\)"),
        ({"0.weight": torch.zeros(6, 2)}, r"'0\.weight' is of shape \(6, 2\), but now"),
    ],
)
def test_weights_of_another_structure_are_refused(initial, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        rg.Laziness()(net(), mean_loss, inputs(), initial=initial)


def test_a_loss_that_does_not_call_the_model_is_refused():
    model = net()
    with pytest.raises(rg.DeclarationError, match="loss_fn: does not call the model itself"):
        rg.Laziness()(model, lambda m, x: m[0](x).mean(), inputs(), initial=weights_of(model))


def test_fused_attention_is_no_obstacle_and_sequences_count_at_their_last_token():
    torch.manual_seed(0)
    model = TinyGPT(vocab=9, width=16, context=8).double().eval()
    tokens = torch.randint(0, 9, (3, 8))
    with torch.no_grad():
        [block.attention.out.weight.normal_() for block in model.blocks]  # which starts at zero
    found = tangent_kernel(model, dict(model.named_parameters()), list(weights_of(model)), (tokens,), {}, outputs=4)
    last = nn.Sequential(model, Last())
    with sdpa_kernel(SDPBackend.MATH):
        wanted = kernel_by_loop(last, tokens).detach()
    kept = [9 * example + output for example in range(3) for output in (0, 2, 4, 6)]
    torch.testing.assert_close(found, wanted[kept][:, kept], rtol=1e-10, atol=1e-10)


class Last(nn.Module):
    def forward(self, x):
        return x[:, -1]


# -- step 0 in runs ---------------------------------------------------------------------------------------------

LOW = [rg.LowRankInit("0.weight", rank=1), rg.Reinitialise("4.weight")]
PROBES = [rg.Laziness(every="1 steps"), rg.RankMe(every="1 steps"), rg.AlphaReQ(window=(1, 8), every="1 steps")]


def observed(regime, probes, seed=3):
    options = {
        "out": None,
        "validate": None,
        "probes": probes,
        "checkpoint": "10%",
        "max_time": None,
        "give_up": 10,
        "reduce": "tree",
    }
    session = Session(tiny.workload("classes"), regime, seed, options | {"workload_spec": None})
    records = list(session.records())
    tree = trees.clone(session.run.tree())
    del tree["work"]["observed_flops"]
    return tree, records


def test_step_0_is_after_the_transforms_of_the_first_phase():
    regime = rg.Regime(optimizer=rg.SGD(lr=0.0), batch_size=6, budget="3 steps", on_entry=LOW)
    for record in observed(regime, PROBES)[1]:
        same({name: record.signals[f"laziness/{name}"] for name in UNMOVED}, UNMOVED, rel=1e-6)


def test_weight_change_is_from_step_0_through_all_phases():
    regime = rg.Regime(
        phases=[
            rg.Phase("first", budget="50%", on_entry=LOW),
            rg.Phase("second", budget="50%", trainable="4.*", on_entry=[rg.Reinitialise("4.bias")]),
        ],
        optimizer=rg.SGD(lr=0.1),
        batch_size=6,
        budget="6 steps",
    )
    run, wanted = rg.Run(tiny.workload("classes"), regime, seed=3), []
    first = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
    while not run.finished:
        run.step()
        now = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])
        wanted.append(((now - first).norm() / first.norm()).item())
    _, records = observed(regime, PROBES)
    looked = [i for i, record in enumerate(records) if "laziness/weight_change" in record.signals]
    assert looked == [0, 1, 3, 4, 5]  # at the seam nobody looks
    found = [records[i].signals["laziness/weight_change"] for i in looked]
    assert found == pytest.approx([wanted[i] for i in looked], rel=1e-5)
    assert not any("probe_error" in record.signals for record in records)


def test_probes_of_step_0_disturb_nothing():
    regime = rg.Regime(
        optimizer=rg.AdamW(lr=0.05), batch_size=6, budget="4 steps", average=rg.EMA(0.9), lag=1, on_entry=LOW
    )
    (bare, _), (tree, records) = observed(regime, []), observed(regime, PROBES)
    assert trees.differences(bare, tree) == []
    assert not any("probe_error" in record.signals for record in records)


def test_a_resumed_run_measures_from_the_same_step_0(tmp_path):
    work = tiny.workload("classes")
    regime = rg.Regime(optimizer=rg.SGD(lr=0.1), batch_size=6, budget="6 steps", on_entry=LOW)
    options = {"probes": PROBES, "checkpoint": "2 steps", "seed": 5}
    rg.run(work, regime, out=tmp_path / "whole", **options)
    stream = rg.stream(work, regime, out=tmp_path / "broken", **options)
    for _ in range(3):
        next(stream)
    stream.close()
    rg.run(work, regime, out=tmp_path / "broken", **options)
    records = (tmp_path / "broken" / "records.jsonl").read_bytes()
    assert records == (tmp_path / "whole" / "records.jsonl").read_bytes()
    assert records.count(b"laziness/kernel_alignment") == 6
