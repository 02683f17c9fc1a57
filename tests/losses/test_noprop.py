"""NoProp: blocks that learn apart, the exact posterior, a plain twin; and the model that it trains."""

import math

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.engine.run import Run
from regimes.losses.noprop import cosine_levels, posterior
from regimes.workloads.models import DenoisingBlocks

INPUTS, CLASSES, BLOCKS = 6, 3, 4


def data(n=48, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, INPUTS, generator=draw), torch.randint(0, CLASSES, (n,), generator=draw)


def net(embedding=None):
    return DenoisingBlocks(INPUTS, CLASSES, blocks=BLOCKS, width=8, embedding=embedding)


def made(embedding=None, seed=1):
    torch.manual_seed(seed)
    return net(embedding)


def noise(levels, n, width, seed):
    torch.manual_seed(seed)
    return torch.randn(levels, n, width)


# -- the process ---------------------------------------------------------------------------------------------


@pytest.mark.exact("NoProp")
@pytest.mark.parametrize("levels", [cosine_levels(5), cosine_levels(1), torch.linspace(0.01, 0.97, 12).double() ** 2])
def test_a_perfect_guess_gives_the_marginals_of_every_level(levels):
    """Mean and variance are propagated: from N(sqrt(abar_0) u, 1 - abar_0) the steps lead to N(sqrt(abar_t) u, 1 - abar_t)."""
    a, b, c = posterior(levels)
    mean, variance = levels[0].sqrt(), 1 - levels[0]  # of one coordinate, in units of u's
    for t in range(1, len(levels)):
        mean, variance = a[t - 1] + b[t - 1] * mean, b[t - 1] ** 2 * variance + c[t - 1]
        torch.testing.assert_close(mean, levels[t].sqrt(), rtol=1e-12, atol=0)
        torch.testing.assert_close(variance, 1 - levels[t], rtol=1e-9, atol=1e-15)
    assert (c > 0).all()


@pytest.mark.exact("NoProp")
def test_the_posterior_is_bayes_rule_on_the_chain_that_adds_noise():
    """Densities in a grid: q(z_t | z_{t-1}, u) is proportional to q(z_t | u) q(z_{t-1} | z_t)."""
    levels = cosine_levels(3)
    a, b, c = posterior(levels)
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    u, before = 0.7, -0.4
    for t in range(1, 3):  # the last level leaves too little noise for this grid
        alpha = levels[t - 1] / levels[t]
        log = -((z - levels[t].sqrt() * u) ** 2) / (2 * (1 - levels[t]))
        log = log - (before - alpha.sqrt() * z) ** 2 / (2 * (1 - alpha))
        density = log.softmax(0)
        mean = (density * z).sum()
        torch.testing.assert_close(mean, a[t - 1] * u + b[t - 1] * before, rtol=1e-6, atol=0)
        torch.testing.assert_close((density * (z - mean) ** 2).sum(), c[t - 1], rtol=1e-6, atol=0)


def test_levels_rise_from_near_0_to_near_1_and_both_ends_are_alike():
    levels = cosine_levels(10)
    assert (levels.diff() > 0).all()
    torch.testing.assert_close(levels + levels.flip(0), torch.ones(11, dtype=torch.float64), rtol=0, atol=1e-12)
    assert 0 < levels[0] < 2e-4
    assert levels[0].item() == pytest.approx(math.sin(math.pi / 2 * 0.008 / 1.016) ** 2, rel=1e-12)


def test_inference_follows_the_posterior():
    model, (x, _) = made(embedding=5), data()
    z = noise(BLOCKS + 1, len(x), 5, seed=7)
    torch.manual_seed(7)
    found = model.trajectory(x)
    a, b, c = (part.float() for part in posterior(cosine_levels(BLOCKS)))
    torch.manual_seed(7)
    state = torch.randn(len(x), 5)
    for t, block in enumerate(model.blocks):
        assert torch.equal(found[t], state)
        state = (
            a[t] * (block(x, state).softmax(1) @ model.embedding) + b[t] * state + c[t].sqrt() * torch.randn(len(x), 5)
        )
    torch.testing.assert_close(found[-1], state)
    torch.manual_seed(7)
    assert torch.equal(model(x), model.head(found[-1]))
    assert z.shape == found.shape


def test_perfect_blocks_answer_right():
    """With blocks that know the class, the inference ends at its embedding, whatever the noise."""
    model, (x, y) = made(), data()
    known = nn.Module()
    known.forward = lambda x, z: 1e3 * nn.functional.one_hot(y, CLASSES).float()
    model.blocks = nn.ModuleList([known] * BLOCKS)
    found = model.trajectory(x)
    spread = (found[-1] - torch.eye(CLASSES)[y]).std()
    assert spread.item() == pytest.approx((1 - cosine_levels(BLOCKS)[-1].item()) ** 0.5, rel=0.2)
    assert torch.equal(model.head(found[-1]).argmax(1), y)


# -- the loss ------------------------------------------------------------------------------------------------


def plain(model, x, y, eta, seed):
    """The loss of each example, one example and one block at a time."""
    levels = model.alpha_bar.tolist()
    width = model.embedding.shape[1]
    drawn, out = noise(BLOCKS + 1, len(x), width, seed), []
    for i in range(len(x)):
        u = model.embedding[y[i]]
        z = [level**0.5 * u + (1 - level) ** 0.5 * drawn[t, i] for t, level in enumerate(levels)]
        total = -model.head(z[-1]).log_softmax(0)[y[i]]
        q, p = (
            torch.distributions.Normal(mean, torch.full((width,), sd))
            for mean, sd in ((levels[0] ** 0.5 * u, (1 - levels[0]) ** 0.5), (torch.zeros(width), 1.0))
        )
        total = total + torch.distributions.kl_divergence(q, p).sum()
        for t in range(1, BLOCKS + 1):
            guess = model.blocks[t - 1](x[i : i + 1], z[t - 1][None])[0].softmax(0) @ model.embedding
            gain = levels[t] / (1 - levels[t]) - levels[t - 1] / (1 - levels[t - 1])
            total = total + eta / 2 * gain * (guess - u).square().sum()
        out.append(total)
    return torch.stack(out)


@pytest.mark.exact("NoProp")
@pytest.mark.parametrize("embedding", [None, 5])
def test_a_plain_twin_has_the_same_losses_and_gradients(embedding):
    model, twin, (x, y) = made(embedding), made(embedding), data(10)
    for each in (model, twin):
        each.alpha_bar = torch.linspace(0.15, 0.9, BLOCKS + 1, dtype=torch.float64)  # at which every term has its say
    torch.manual_seed(3)
    found = rg.NoProp(eta=0.3)(model, (x, y)).values
    expected = plain(twin, x, y, 0.3, seed=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    found.sum().backward()
    expected.sum().backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad.abs().max() > 0, name
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5 * float(q.grad.abs().max()))


@pytest.mark.exact("NoProp")
@pytest.mark.parametrize("embedding", [None, 5])
def test_no_gradient_passes_between_blocks(embedding):
    model, batch = made(embedding), data()
    names = [name for name, _ in model.named_parameters()]
    terms = rg.NoProp().terms(model, batch)
    for t in range(BLOCKS):
        gradients = torch.autograd.grad(
            terms.denoising[t].sum(), list(model.parameters()), retain_graph=True, materialize_grads=True
        )
        moved = {name for name, g in zip(names, gradients) if g.abs().max() > 0}
        own = {name for name in names if name.startswith(f"blocks.{t}.")}
        assert moved == own | ({"embedding"} if embedding else set())
    answer = torch.autograd.grad(terms.answer.sum(), list(model.parameters()), allow_unused=True, retain_graph=True)
    reached = {name for name, g in zip(names, answer) if g is not None}
    assert reached == {"head.weight", "head.bias"} | ({"embedding"} if embedding else set())
    assert terms.prior.requires_grad == bool(embedding)


def trained(seed=4, **fields):
    """A run of 12 steps of AdamW, every parameter by itself."""
    work = rg.Workload(model=net, train=data(), val=data(), loss=nn.CrossEntropyLoss(), metrics={"acc": rg.Accuracy()})
    fields = {"optimizer": rg.AdamW(lr=3e-3), "batch_size": 12, "budget": "12 steps", "loss": rg.NoProp()} | fields
    run = Run(work, rg.Regime(**fields), seed=seed)
    for _ in run:
        pass
    return run


@pytest.mark.exact("NoProp")
def test_blocks_trained_together_are_those_trained_one_at_a_time():
    """A run for each block alone, and one for the head, with the same seed: the same noise, the same bits."""
    together = dict(trained().model.named_parameters())
    start = trained(budget="1 steps", optimizer=rg.SGD(lr=0.0)).model
    for part in [*(f"blocks.{t}" for t in range(BLOCKS)), "head"]:
        alone = trained(trainable=[f"{part}.*"]).model
        for name, p in alone.named_parameters():
            inside = name.startswith(f"{part}.")
            assert torch.equal(p, together[name] if inside else start.get_parameter(name)), name
            assert not inside or not torch.equal(p, start.get_parameter(name))


def test_a_run_is_judged_by_its_inference():
    """Validation loss and accuracy are those of the answer to noise, not those of the blocks."""
    run = trained(loss=rg.NoProp())
    x, y = data()
    found = run.validation.measure("val")
    torch.manual_seed(0)
    with torch.no_grad():
        answers = run.model.eval()(x)
    assert found["val/loss"] == pytest.approx(nn.functional.cross_entropy(answers, y).item(), rel=1e-6)
    assert found["val/acc"] == pytest.approx((answers.argmax(1) == y).float().mean().item())


def test_refusals():
    with pytest.raises(rg.DeclarationError, match="has no tensor 'alpha_bar'"):
        rg.NoProp()(nn.Linear(INPUTS, CLASSES), data())
    model = made()
    model.forward = lambda x, z: (torch.zeros(len(x), CLASSES), torch.zeros(len(x), CLASSES))
    with pytest.raises(rg.DeclarationError, match=r"gave logits of shape \(48, 3\); allowed: \(4, 48, 3\)"):
        rg.NoProp()(model, data())
    with pytest.raises(rg.DeclarationError, match="is not separable"):
        trained(micro_batch="auto")
