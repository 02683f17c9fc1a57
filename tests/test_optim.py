"""Rules as torch optimizers: the engine's bits, torch's protocol."""

import copy
import inspect
import pickle
import re

import pytest
import torch
from torch import nn

import regimes as rg
from regimes import optim
from regimes.engine.run import Run
from regimes.optimizers.tensorwise.rule import Tensorwise

#: Every rule of ours, with options away from the defaults.
RULES = {
    "AdaHessian": {"lr": 0.05, "weight_decay": 0.1},
    "AdamW": {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1},
    "Conda": {"lr": 0.02, "every": 4, "weight_decay": 0.1},
    "LAMB": {"lr": 0.02, "weight_decay": 0.1, "clamp": (0.1, 2.0)},
    "LARS": {"lr": 0.02, "weight_decay": 0.1},
    "Lion": {"lr": 0.01, "weight_decay": 0.1},
    "Muon": {"lr": 0.02},
    "NorMuon": {"lr": 0.02, "beta2": 0.8, "weight_decay": 0.1},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "SGDSaI": {"lr": 0.1, "weight_decay": 0.1},
    "SPAM": {"lr": 0.02, "threshold": 3.0, "reset_interval": 5, "warmup_steps": 2, "clip_after": 1},
    "ScheduleFreeAdamW": {"lr": 0.02},
    "ScheduleFreeSGD": {"lr": 0.1},
    "Sophia": {"lr": 0.02, "gamma": 0.3},
    "StableSPAM": {"lr": 0.02, "theta": 0.9, "reset_interval": 5},
}
#: Those that are told the curvature: how, and that the engine's bits come out, is in test_second_order.py.
CURVED = ("AdaHessian", "Sophia")
HALF = (torch.float16, torch.bfloat16)


def net():
    """Two matrices without biases: Muon takes both."""
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))


def data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=draw)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def train(model, optimizer, batches, scheduler=None):
    x, y = data()
    x = x.to(next(model.parameters()).dtype)
    for indices in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[indices]), y[indices]).backward()
        if type(optimizer).__name__ in CURVED:
            optimizer.update_hessian([1.0 + p.detach().square() for p in model.parameters()])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def batches(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 64, (16,), generator=draw) for _ in range(n)]


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other))


def test_every_tensorwise_rule_is_there_and_listed_here():
    own = {
        name for name, rule in vars(rg.optimizers).items() if isinstance(rule, type) and issubclass(rule, Tensorwise)
    }
    assert own == set(RULES)
    assert own <= set(dir(optim))
    for name in own:
        assert issubclass(getattr(optim, name), torch.optim.Optimizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in RULES if name not in CURVED])
def test_has_the_bits_of_the_engine(name, dtype):
    x, y = data()
    work = rg.Workload(model=lambda: net().to(dtype), train=(x.to(dtype), y), loss=nn.CrossEntropyLoss())
    run = Run(work, rg.Regime(optimizer=getattr(rg, name)(**RULES[name]), batch_size=16, budget="15 steps"))
    model, drawn = copy.deepcopy(run.model), []
    optimizer = getattr(optim, name)(model.parameters(), **RULES[name])
    while not run.finished:
        drawn.append(torch.from_numpy(run.frame.plans[0].indices))
        run.step()
    train(model, optimizer, drawn)
    assert same(weights(model), weights(run.model))
    with optimizer.evaluating():
        assert same(weights(model), run.evaluation_weights().values())
    assert same(weights(model), weights(run.model))


@pytest.mark.parametrize(
    ("name", "options"), [("AdamW", {}), ("AdamW", {"weight_decay": 0.2}), ("SGD", {"momentum": 0.9, "dampening": 0.2})]
)
def test_is_a_stand_in_for_torchs_class(name, options):
    ours, theirs = net(), net()
    theirs.load_state_dict(ours.state_dict())
    train(ours, getattr(optim, name)(ours.parameters(), 0.05, **options), batches(20))
    train(theirs, getattr(torch.optim, name)(theirs.parameters(), 0.05, fused=True, **options), batches(20))
    assert same(weights(ours), weights(theirs))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, *(pytest.param(t, marks=pytest.mark.slow) for t in (torch.float16, torch.float64))],
)
@pytest.mark.parametrize("name", RULES)
def test_state_dict_continues_in_the_same_bits(name, dtype, tmp_path):
    model = net().to(dtype)
    optimizer = getattr(optim, name)(model.parameters(), **RULES[name])
    train(model, optimizer, batches(7))
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint.pt")
    train(model, optimizer, batches(27, seed=1))
    other, saved = net().to(dtype), torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed = getattr(optim, name)(other.parameters(), lr=123.0)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, batches(27, seed=1))
    assert same(weights(model), weights(other))
    assert kinds(resumed.state_dict()["state"]) == kinds(optimizer.state_dict()["state"])
    assert resumed.param_groups[0]["lr"] == RULES[name]["lr"]


def kinds(tree):
    """The same tree with types in place of tensors."""
    if isinstance(tree, dict):
        return {key: kinds(value) for key, value in tree.items()}
    return (tree.dtype, tree.shape) if isinstance(tree, torch.Tensor) else tree


def test_hooks_around_loading_see_what_the_rule_keeps():
    """A caller's hook before acts before, one after sees states in the rule's own types, and ours are gone then."""
    w, seen = nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), []
    optimizer = optim.Lion([w], lr=0.1)
    w.grad = torch.full_like(w, 0.3)
    optimizer.step()
    saved = optimizer.state_dict()

    def doubled(_, given):
        return given | {"state": {0: given["state"][0] | {"exp_avg": 2 * given["state"][0]["exp_avg"]}}}

    optimizer.register_load_state_dict_pre_hook(doubled)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.state[w]["exp_avg"].clone()))
    optimizer.load_state_dict(saved)
    assert torch.equal(seen[0], 2 * saved["state"][0]["exp_avg"])
    assert seen[0].dtype == torch.float32
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1
    assert len(optimizer._optimizer_load_state_dict_post_hooks) == 1


def test_states_of_float32_continue_in_the_types_of_other_weights():
    """As torch, a state is cast to what the rule keeps for weights of the type that it is loaded for."""
    w, v = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
    first, second = optim.Conda([w]), optim.Conda([v])
    w.grad, v.grad = torch.eye(3, 4), torch.eye(3, 4, dtype=torch.float64)
    first.step()
    second.load_state_dict(first.state_dict())
    state = second.state[v]
    assert {state[key].dtype for key in ("exp_avg", "exp_avg_sq")} | {state["frame"]["basis"].dtype} == {torch.float64}
    second.step()


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", RULES)
def test_half_precision_is_float32_rounded_once_a_step(name, dtype):
    """The twin's weights and gradients are float32 numbers of the narrow type; after each step its weights are rounded."""
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(4, 6, generator=draw).to(dtype)
    narrow, twin = nn.Parameter(start.clone()), nn.Parameter(start.float())
    ours, theirs = (getattr(optim, name)([w], **RULES[name]) for w in (narrow, twin))
    for size in (1.0, 1e-5, 0.0, 3e-3):
        g = (torch.randn(4, 6, generator=draw) * size).to(dtype)
        curvature = torch.rand(4, 6, generator=draw).to(dtype)
        narrow.grad, twin.grad = g, g.float()
        if name in CURVED:
            ours.update_hessian([curvature])
            theirs.update_hessian([curvature.float()])
        ours.step()
        theirs.step()
        twin.data = twin.data.to(dtype).float()
        assert narrow.dtype == dtype
        assert torch.equal(narrow.float(), twin)
    assert kinds(dict(ours.state[narrow])) == kinds(dict(theirs.state[twin]))
    assert torch.isfinite(narrow).all()
    with ours.evaluating(), theirs.evaluating():
        assert torch.equal(narrow, twin.to(dtype))


def test_small_gradients_of_float16_move_by_the_rate():
    """g^2 = 1e-10 is 0 in float16; each of Adam's steps is the rate all the same."""
    w = nn.Parameter(torch.zeros(64, dtype=torch.float16))
    optimizer = optim.AdamW([w], lr=0.125, eps=0.0, weight_decay=0.0)
    for _ in range(3):
        w.grad = torch.full_like(w, 1e-5)
        optimizer.step()
    assert torch.equal(w, torch.full_like(w, -0.375))


@pytest.mark.parametrize("dtype", HALF)
def test_sgd_moves_in_half_precision(dtype):
    """torch's fused kernel leaves whole vectors of entries as they are on a CPU (pytorch issue 191763)."""
    w = nn.Parameter(torch.zeros(64, dtype=dtype))
    optimizer = optim.SGD([w], lr=0.5, momentum=0.5)
    for _ in range(2):
        w.grad = torch.full_like(w, 0.5)
        optimizer.step()
    assert torch.equal(w, torch.full_like(w, -0.625))


LAYOUTS = {
    "float32": lambda w: w,
    "float64": lambda w: w.double(),
    "bfloat16": lambda w: w.bfloat16(),
    "not contiguous": lambda w: w.t(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", RULES)
def test_gradients_are_left_as_they_are(name, layout):
    """With decay, as what adds it to the gradient may write there; a transposed tensor goes past fused kernels."""
    draw, laid = torch.Generator().manual_seed(0), LAYOUTS[layout]
    w = nn.Parameter(laid(torch.randn(4, 6, generator=draw)))
    optimizer = getattr(optim, name)([w], **{**RULES[name], "weight_decay": 0.1})
    for _ in range(3):
        w.grad = laid(torch.randn(4, 6, generator=draw))
        curvature = laid(torch.rand(4, 6, generator=draw))
        assert w.grad.is_contiguous() == w.is_contiguous() == (layout != "not contiguous")
        before = w.detach().clone(), w.grad.clone(), curvature.clone()
        if name in CURVED:
            optimizer.update_hessian([curvature])
        optimizer.step()
        assert not torch.equal(w, before[0])
        assert torch.equal(w.grad, before[1])
        assert torch.equal(curvature, before[2])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("name", RULES)
def test_empty_parameters_change_nothing_for_the_others(name, shape):
    found = []
    for shapes in ([shape, (3, 4)], [(3, 4)]):
        ws = [nn.Parameter(torch.ones(s)) for s in shapes]
        optimizer = getattr(optim, name)(ws, **RULES[name])
        for number in range(3):
            for w in ws:
                w.grad = torch.full(w.shape, 1.0 + number)
            if name in CURVED:
                optimizer.update_hessian([torch.ones(w.shape) for w in ws])
            optimizer.step()
        found.append(ws[-1])
    assert torch.equal(*found)
    assert not torch.equal(found[0], torch.ones(3, 4))


def test_complex_parameters_are_refused_by_name():
    w = nn.Parameter(torch.ones(2, dtype=torch.complex128))
    sentence = r"parameter 'w' is torch.complex128; allowed: real numbers: make it of torch.view_as_real\("
    for name in RULES:
        with pytest.raises(rg.DeclarationError, match=sentence):
            getattr(optim, name)([("w", w)])
    real = nn.Parameter(torch.view_as_real(w.detach()).clone())
    optimizer = optim.AdamW([real], lr=0.1)
    theirs = torch.optim.AdamW([w], lr=0.1)
    for g in (1 + 1j, 0.5 - 2j):
        w.grad = torch.full_like(w, g)
        real.grad = torch.view_as_real(w.grad)
        optimizer.step()
        theirs.step()
    torch.testing.assert_close(torch.view_as_complex(real.detach()), w.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_survives_pickle_and_deepcopy(name):
    model = net()
    optimizer = getattr(optim, name)(model.parameters(), **RULES[name])
    train(model, optimizer, batches(3))
    pairs = [pickle.loads(pickle.dumps((model, optimizer))), copy.deepcopy((model, optimizer))]
    train(model, optimizer, batches(3, seed=1))
    for other_model, other in pairs:
        assert type(other) is type(optimizer)
        train(other_model, other, batches(3, seed=1))
        assert same(weights(model), weights(other_model))


def test_groups_have_values_of_their_own():
    """Each group's matrices move as under an optimizer of their own."""
    together = net()
    alone = [copy.deepcopy(together), copy.deepcopy(together)]
    groups = [{"params": [together[0].weight]}, {"params": [together[2].weight], "lr": 0.5, "momentum": 0.5}]
    gradient = [torch.ones(8, 6), torch.full((3, 8), -2.0)]
    several = optim.SGD(groups, lr=0.1, momentum=0.9)
    single = [
        optim.SGD([alone[0][0].weight], lr=0.1, momentum=0.9),
        optim.SGD([alone[1][2].weight], lr=0.5, momentum=0.5),
    ]
    for _ in range(3):
        together[0].weight.grad, together[2].weight.grad = gradient[0].clone(), gradient[1].clone()
        alone[0][0].weight.grad, alone[1][2].weight.grad = gradient[0].clone(), gradient[1].clone()
        for optimizer in (several, *single):
            optimizer.step()
    assert torch.equal(together[0].weight, alone[0][0].weight)
    assert torch.equal(together[2].weight, alone[1][2].weight)
    assert not torch.equal(together[0].weight, alone[1][0].weight)


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=12),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    ],
)
@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {})])
def test_torchs_schedulers_move_it(make, name, options):
    """Rates, and with one-cycle momenta too, are read from the group on each step."""
    ours, theirs = net(), net()
    theirs.load_state_dict(ours.state_dict())
    mine = getattr(optim, name)(ours.parameters(), lr=0.1, **options)
    torchs = getattr(torch.optim, name)(theirs.parameters(), lr=0.1, fused=True, **options)
    train(ours, mine, batches(10), make(mine))
    train(theirs, torchs, batches(10), make(torchs))
    assert mine.param_groups[0]["lr"] == torchs.param_groups[0]["lr"] != 0.1
    assert same(weights(ours), weights(theirs))


def test_momentum_that_a_scheduler_switches_on_works():
    ours, theirs = net(), net()
    theirs.load_state_dict(ours.state_dict())
    pair = [(ours, optim.SGD(ours.parameters(), lr=0.1)), (theirs, torch.optim.SGD(theirs.parameters(), lr=0.1))]
    for model, optimizer in pair:
        train(model, optimizer, batches(3))
        optimizer.param_groups[0]["momentum"] = 0.9
        train(model, optimizer, batches(5, seed=1))
    for a, b in zip(weights(ours), weights(theirs)):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_rate_may_be_a_tensor():
    one, other = net(), net()
    other.load_state_dict(one.state_dict())
    first, second = optim.Lion(one.parameters(), lr=0.25), optim.Lion(other.parameters(), lr=0.1)
    second.param_groups[0]["lr"] = torch.tensor(0.25)
    train(one, first, batches(3))
    train(other, second, batches(3))
    assert same(weights(one), weights(other))


def test_closure_is_evaluated_once_with_gradients_and_returned():
    model, (x, y), calls = net(), data(), []
    optimizer = optim.AdamW(model.parameters(), lr=0.1)

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    before = weights(model)
    loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == nn.functional.cross_entropy(functional(before, x), y).item()
    assert not same(before, weights(model))


def functional(given, x):
    return torch.tanh(x @ given[0].T) @ given[1].T


def test_named_parameters_are_accepted_and_kept():
    model = net()
    optimizer = optim.Muon(model.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["0.weight", "2.weight"]
    train(model, optimizer, batches(2))
    assert optimizer.state[model[0].weight]["step"] == 2


def test_parameters_without_gradient_are_left_alone():
    model = net()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    before = weights(model)
    model[2].weight.grad = torch.ones(3, 8)
    optimizer.step()
    assert torch.equal(model[0].weight, before[0])
    assert list(optimizer.state) == [model[2].weight]
    with optimizer.evaluating():
        assert torch.equal(model[0].weight, before[0])


def test_sparse_gradients_are_refused():
    model = nn.Embedding(5, 3, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"Lion takes no sparse gradients; .* torch.optim.SparseAdam"):
        optim.Lion(model.parameters()).step()


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda ps: optim.Lion(ps, lr=-1), "lr: got -1; allowed: a finite number >= 0"),
        (lambda ps: optim.Lion(ps, weigth_decay=0.1), "Lion has no field 'weigth_decay'; did you mean 'weight_decay'"),
        (lambda ps: optim.Lion([{"params": ps, "lr": -1}]), "lr: got -1"),
        (
            lambda ps: optim.Lion(ps, lr=rg.Cosine(0.1)),
            r"lr: got Cosine\(0.1\); allowed here: a number, moved by rg.lr_sch",
        ),
        (lambda ps: optim.Lion(ps, betas=(rg.Cosine(0.1), 0.9)), "betas: got Cosine"),
        (
            lambda ps: optim.Muon([("b", nn.Parameter(torch.zeros(3)))]),
            r"'b' has the shape \(3,\); in your own loop make two optim",
        ),
        (lambda ps: optim.Muon([nn.Parameter(torch.zeros(3))]), r"'parameter 0' has the shape \(3,\)"),
    ],
)
def test_what_the_rule_refuses_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act(net().parameters())


def test_refused_group_is_not_added():
    optimizer = optim.Muon(net().parameters())
    with pytest.raises(rg.DeclarationError):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 1


def test_unknown_optimizer_is_an_attribute_error_with_the_nearest():
    with pytest.raises(AttributeError, match=r"regimes.optim has no optimizer 'Lionn'; did you mean 'Lion'"):
        optim.Lionn  # noqa: B018
    with pytest.raises(AttributeError, match=r"no optimizer 'Adam'; torch\.optim\.Adam is one, and rg\.lr_scheduler"):
        optim.Adam  # noqa: B018


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("KFAC", "it evaluates the model itself and it stands around another rule, its base"),
        ("MeZO", "it evaluates the model itself"),
        ("LANTON", "it stands around another rule, its base"),
        ("DoG", "it is not written for one tensor at a time"),
    ],
)
def test_a_rule_that_needs_a_run_says_so(name, why):
    said = f"has no optimizer '{name}'; rg.{name} needs a run ({why}): rg.run(work, rg.Regime(optimizer=rg.{name}(...), ...))"
    with pytest.raises(AttributeError, match=re.escape(said)):
        getattr(optim, name)


def test_matrices_alone_are_said_for_a_loop_and_for_a_run():
    said = "'1.weight' has the shape (3,)"
    two = (
        "; in your own loop make two optimizers, rg.optim.Muon(hidden, ...), with the matrices of hidden layers alone, "
    )
    with pytest.raises(rg.DeclarationError, match=re.escape(f"{said}{two}and rg.optim.AdamW(rest, ...)")):
        optim.Muon([("1.weight", nn.Parameter(torch.zeros(3)))])
    with pytest.raises(
        rg.DeclarationError, match=re.escape(f"{said}; give the rest to another rule with rg.groups.muon")
    ):
        rg.Muon().init({"1.weight": nn.Parameter(torch.zeros(3))})


@pytest.mark.parametrize("name", ["eval", "train"])
def test_switches_of_other_packages_are_answered_with_ours(name):
    optimizer = optim.ScheduleFreeSGD(net().parameters())
    said = f"'ScheduleFreeSGD' object has no attribute '{name}': evaluate inside 'with optimizer.evaluating():'"
    with pytest.raises(AttributeError, match=re.escape(said)):
        getattr(optimizer, name)
    with pytest.raises(AttributeError, match="'ScheduleFreeSGD' object has no attribute 'evil'$"):
        optimizer.evil  # noqa: B018


def test_signature_and_documentation_are_the_rules():
    assert list(inspect.signature(optim.Lion).parameters) == ["params", "lr", "betas", "weight_decay"]
    assert inspect.signature(optim.SGD).parameters["lr"].default == 1e-3
    assert "arXiv:2302.06675" in optim.Lion.__doc__
    assert optim.Lion.__module__ == "regimes.optim"
