"""What people's modules do that a checkpoint or a sum could miss: each resumes, restores and adds exactly."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import regimes as rg
from regimes.engine.buffers import Buffers
from regimes.engine.run import Run
from regimes.engine.trees import differences
from regimes.testing.resume import resume_chain

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self._in, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.hidden(torch.relu(self._in(x))))

    def hidden(self, h):
        return h


class PrivateNames(Net):
    """Its first layer's name starts with an underscore, and so does a buffer's."""

    def __init__(self):
        super().__init__()
        self.register_buffer("_mean", torch.zeros(8))

    def hidden(self, h):
        if self.training:
            self._mean.lerp_(h.detach().mean(0), 0.1)
        return h - self._mean


class Reassigned(Net):
    """A running mean that is replaced by a new tensor at every forward."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def hidden(self, h):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
        return h - self.mean


class NotPersistent(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def hidden(self, h):
        if self.training:
            self.mean.lerp_(h.detach().mean(0), 0.1)
        return h - self.mean


class Late(Net):
    """A buffer that stands still for five forwards and then moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(8))

    def hidden(self, h):
        if self.training:
            self.calls += 1
            if self.calls > 5:
                self.mean.lerp_(h.detach().mean(0), 0.1)
        return h - self.mean


class Growing(Net):
    """A table that does not exist at first and grows with what comes, as caches of positions do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", None, persistent=False)

    def hidden(self, h):
        if self.table is None or len(self.table) < len(h):
            self.table = torch.linspace(0, 1, len(h))
        return h + self.table[: len(h), None]


class ForeignNoise(Net):
    """Noise from numpy and Python instead of torch."""

    def hidden(self, h):
        noise = np.random.standard_normal(8) + random.random() if self.training else np.zeros(8)
        return h + torch.as_tensor(noise, dtype=h.dtype)


class LateNoise(ForeignNoise):
    """The same, only once it has been called often enough."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def hidden(self, h):
        self.calls += 1
        return super().hidden(h) if self.calls > 4 else h


class LayerDrop(Net):
    """Half of the forwards leave a layer out, so that their work differs."""

    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(8, 8)

    def hidden(self, h):
        return self.extra(h) if torch.rand(()) < 0.5 else h


class ExtraState(Net):
    """Something that is no tensor, kept as torch says."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def get_extra_state(self):
        return {"count": self.count}

    def set_extra_state(self, state):
        self.count = state["count"]

    def hidden(self, h):
        self.count += self.training
        return h * (1 + 0.01 * self.count)


class Parametrized(Net):
    """A weight that passes through a module before it is used."""

    def __init__(self):
        super().__init__()
        parametrizations.weight_norm(self._in)


class Scaled(Net):
    """A parameter handed to a module as its input."""

    def __init__(self):
        super().__init__()
        self.token, self.mix = nn.Parameter(torch.zeros(1, 8)), nn.Linear(8, 8)

    def hidden(self, h):
        return h + self.mix(self.token)


NETS = [
    PrivateNames, Reassigned, NotPersistent, Late, Growing, ForeignNoise, LateNoise, LayerDrop, ExtraState,
    Parametrized, Scaled,
]  # fmt: skip


def work(model, **fields):
    return rg.Workload(model=model, train=(X, Y), val=(X[:8], Y[:8]), loss=nn.CrossEntropyLoss(), **fields)


def regime(optimizer=None, **fields):
    fields = {"batch_size": 8, "budget": "14 steps"} | fields
    return rg.Regime(optimizer=optimizer or rg.SGD(lr=0.1, momentum=0.9), **fields)


@pytest.mark.parametrize("net", NETS)
def test_resume_is_bitwise(net):
    assert resume_chain(lambda: Run(work(net), regime(micro_batch=4), seed=1), steps=14) == []


def test_the_chain_sees_what_these_modules_keep():
    def lose(path, *keys):
        def damage(tree, step):
            for key in keys:
                tree[path].pop(key, None)

        return damage

    without_noise = resume_chain(lambda: Run(work(NotPersistent), regime(), seed=1), 14, damage=lose("buffers", "mean"))
    assert without_noise[0].startswith("step 1: ")
    with pytest.raises(rg.ResumeError, match="_mean"):
        resume_chain(lambda: Run(work(PrivateNames), regime(), seed=1), 14, damage=lose("model", "_mean"))


@pytest.mark.parametrize("net", [PrivateNames, Reassigned, NotPersistent, Late])
def test_a_skipped_step_leaves_every_buffer_as_it_was(net):
    x, y = torch.cat([X, X]), torch.cat([Y, Y])
    bad = x.clone()
    bad[56:64] = float("nan")  # the examples of the eighth step
    run, clean = (
        Run(rg.Workload(model=net, train=(x, y), loss=nn.CrossEntropyLoss()), declared, seed=1)
        for x, declared in ((bad, regime(sampler=rg.Sequential())), (x, regime(sampler=rg.Sequential())))
    )
    for _ in range(7):
        assert run.step().loss == clean.step().loss
    record = run.step()
    assert "skipped" in record.signals
    for (name, kept), (_, wanted) in zip(run.model.named_buffers(), clean.model.named_buffers()):
        assert differences(kept, wanted) == [], name
        assert torch.isfinite(kept).all()


@pytest.mark.parametrize("net", [PrivateNames, Reassigned, NotPersistent, Late])
def test_a_second_evaluation_starts_from_the_statistics_of_the_first_and_leaves_no_trace(net):
    """SAM at radius 0 evaluates twice at the same weights: it is its base rule, bit by bit."""
    runs = []
    for optimizer in (rg.SAM(rg.SGD(lr=0.1), rho=0.0), rg.SGD(lr=0.1)):
        run = Run(work(net), regime(optimizer, budget="10 steps"), seed=1)
        records = [record.loss for record in run]
        runs.append((records, {name: t.detach() for name, t in run.model.state_dict().items()}))
    assert runs[0][0] == runs[1][0]
    assert differences(runs[0][1], runs[1][1]) == []


def test_noise_from_numpy_and_python_is_paired_by_seed_and_leaves_the_callers_alone():
    random.seed(5)
    np.random.seed(5)
    before = random.getstate(), repr(np.random.get_state())
    one = [record.loss for record in Run(work(ForeignNoise), regime(), seed=1)]
    assert (random.getstate(), repr(np.random.get_state())) == before
    random.seed(6)
    np.random.seed(6)
    assert one == [record.loss for record in Run(work(ForeignNoise), regime(), seed=1)]
    assert one != [record.loss for record in Run(work(ForeignNoise), regime(), seed=2)]
    assert one[0] != next(iter(Run(work(Net), regime(), seed=1))).loss


def test_a_model_that_draws_from_torch_alone_pays_nothing_for_the_other_generators():
    run = Run(work(LayerDrop), regime(), seed=1)
    assert run.forward.draws is None
    run.step()
    assert run.forward.draws is False


def test_noise_that_begins_late_is_noticed_and_the_step_taken_again():
    run = Run(work(LateNoise), regime(), seed=1)
    seen = []
    for _ in run:
        seen.append(run.forward.draws)
    assert seen[0] is False
    assert seen[-1] is True


def noisy_collate(examples):
    x, y = zip(*examples)
    return torch.stack(x) + random.random() + float(np.random.rand()) + torch.rand(()), torch.stack(y)


def test_a_collate_function_that_draws_over_a_plain_list_resumes_exactly():
    data = torch.utils.data.DataLoader(list(zip(X, Y)), batch_size=8, collate_fn=noisy_collate)
    with pytest.warns(UserWarning, match="its data set and its collate_fn are taken"):
        workload = rg.Workload(model=Net, train=data, loss=nn.CrossEntropyLoss())
    assert resume_chain(lambda: Run(workload, regime(lag=1), seed=1), steps=14) == []


def test_a_validation_that_writes_buffers_disturbs_nothing():
    class Counting(Reassigned):
        def hidden(self, h):
            self.mean = 0.9 * self.mean + 0.1 * h.detach().mean(0)
            return h - self.mean

    seldom, often = (Run(work(Counting), regime(), seed=1, validate=every) for every in (None, "1 steps"))
    losses = [[record.loss for record in run] for run in (seldom, often)]
    assert losses[0] == losses[1]


class Critic(nn.Module):
    """Parameters that are added to the values: their gradient is the very tensor that autograd was given."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(1))
        self.each, self.first, self.second = (nn.Parameter(torch.zeros(n)) for n in (8, 4, 4))

    def forward(self, x):
        return x @ self.w + self.b + self.each[: len(x)] + torch.cat([self.first, self.second])[: len(x)]


@pytest.mark.parametrize("micro_batch", [None, 1, 4])
def test_gradients_that_are_the_seeds_themselves_or_pieces_of_another(micro_batch):
    def loss(model, batch):
        return model(batch[0])

    workload = rg.Workload(model=Critic, train=(X,), loss=loss)
    declared = regime(rg.SGD(lr=1.0), micro_batch=micro_batch, budget="3 steps")
    for _ in range(2):  # what an earlier run did to shared tensors would show in a later one
        run = Run(workload, declared, seed=0)
        for _ in run:
            pass
        assert run.model.b.item() == pytest.approx(-3.0, abs=1e-6)
        if micro_batch is None:
            for p in (run.model.each, run.model.first, run.model.second):
                torch.testing.assert_close(p.detach(), torch.full_like(p, -3 / 8), rtol=1e-6, atol=0)


def test_the_work_of_parametrized_weights_is_counted():
    runs = {net: Run(work(net), regime(budget="2 steps"), seed=1) for net in (Net, Parametrized)}
    for run in runs.values():
        for _ in run:
            pass
    assert runs[Net].work.flops == runs[Parametrized].work.flops == 2 * 8 * (2 * (6 * 8 + 8 * 2) * 2 + 2 * 8 * 2)


def test_a_budget_of_flops_that_nothing_uses_up_is_refused():
    class Elementwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return (x * self.w).sum(1)

    workload = rg.Workload(model=Elementwise, train=(X,), loss=lambda model, batch: model(batch[0]))
    with pytest.raises(rg.DeclarationError, match="^budget: got '1000 flops', but .* no floating-point operation"):
        for _ in Run(workload, regime(budget="1000 flops"), seed=0):
            pass


class OwnGenerator(Net):
    def __init__(self):
        super().__init__()
        self.noise = np.random.default_rng(0)

    def hidden(self, h):
        return h + float(self.noise.random())


class OwnGeneratorData(torch.utils.data.Dataset):
    def __init__(self):
        self.rng = random.Random(0)

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + self.rng.random(), Y[i]


def test_what_draws_from_a_generator_of_its_own_is_told_so():
    with pytest.warns(UserWarning, match=r"model: on a resume the numbers that module '' draws .* \(noise\) are not"):
        Run(work(OwnGenerator), regime(), seed=0)
    with pytest.warns(UserWarning, match=r"train: on a resume this data can promise the same examples, but .*\(rng\)"):
        rg.Workload(model=Net, train=OwnGeneratorData(), loss=nn.CrossEntropyLoss())


def test_a_budget_of_tokens_under_a_loss_that_is_one_number_is_refused():
    workload = rg.Workload(model=Net, train=(X, Y), loss=lambda model, batch: model(batch[0]).square().mean())
    with pytest.raises(
        rg.DeclarationError, match="^budget: got '64 tokens', but the loss gives 1 number for 8 examples"
    ):
        Run(workload, regime(budget="64 tokens"), seed=0).step()


class Complex(nn.Module):
    def __init__(self, trained=True):
        super().__init__()
        self.inner = nn.Linear(3, 3, dtype=torch.complex64).requires_grad_(trained)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.inner(x.to(torch.complex64)).real)


def test_complex_weights_are_refused_by_name_where_they_are_trained():
    x, y = torch.randn(16, 3), torch.randint(0, 2, (16,))
    refused = rg.Workload(model=Complex, train=(x, y), loss=nn.CrossEntropyLoss())
    with pytest.raises(
        rg.DeclarationError, match=r"parameter 'inner.weight' is torch.complex64; allowed: real numbers"
    ):
        Run(refused, regime(), seed=0)
    frozen = rg.Workload(model=lambda: Complex(trained=False), train=(x, y), loss=nn.CrossEntropyLoss())
    Run(frozen, regime(), seed=0).step()
    Run(refused, regime(trainable=["head.*"]), seed=0).step()


def test_another_tensor_at_the_address_of_the_last_is_a_change():
    """A buffer that is given up and made anew in every forward may come to lie where the last one lay."""
    module = nn.Module()
    module.register_buffer("table", torch.zeros(8))
    buffers, address = Buffers(module), id(module.table)
    module._buffers["table"] = None
    made = []
    while len(made) < 200 and (not made or id(made[-1]) != address):
        made.append(torch.zeros(8))
    module._buffers["table"] = made[-1]
    assert list(buffers.changed()) == ["table"]
