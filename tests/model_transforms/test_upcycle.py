"""Experts: the function kept, a plain twin of the routing, and state that every copy has of its own."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.experts import MixtureOfExperts
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain
from regimes.workloads.models import TinyGPT

TOKENS = torch.randint(0, 11, (4, 12), generator=torch.Generator().manual_seed(1))


def gpt():
    torch.manual_seed(0)
    model = TinyGPT(vocab=11, layers=2, width=8, context=12).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def upcycled(model, *patterns, seed=0, **settings):
    transform = rg.Upcycle(patterns or ("*.mlp",), **settings)
    sparse = transform.structure(copy.deepcopy(model))
    return sparse, transform.fill(sparse, model, iter(()), Streams(seed))


@pytest.mark.exact("Upcycle")
@pytest.mark.parametrize("spread", [0.0, 0.02, 5.0])
@pytest.mark.parametrize("top_k", [2, 4])
def test_experts_alike_are_the_dense_network_for_any_router(top_k, spread):
    dense = gpt()
    sparse, _ = upcycled(dense, experts=4, top_k=top_k, spread=spread)
    torch.testing.assert_close(sparse(TOKENS), dense(TOKENS), rtol=0, atol=1e-12)


def layer(experts=4, top_k=2):
    """Experts that differ, one of which (the last) no token is sent to."""
    torch.manual_seed(2)
    made = MixtureOfExperts(nn.Linear(3, 2), 3, experts, top_k).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
        made.router.weight[-1] = -50.0
    return made


ROWS = torch.rand(5, 6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.mark.exact("Upcycle")
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_outputs_are_those_of_a_plain_twin(top_k):
    """Token by token: softmax over all experts, the largest kept, their sum made 1; one alone as it is (Switch)."""
    made, wanted = layer(top_k=top_k), torch.zeros(5, 6, 2, dtype=torch.float64)
    for i in range(5):
        for t in range(6):
            share = (made.router.weight @ ROWS[i, t]).softmax(0)
            best = sorted(range(4), key=lambda e: -share[e])[:top_k]
            for e in best:
                whole = sum(share[b] for b in best) if top_k > 1 else 1.0
                wanted[i, t] += share[e] / whole * made.experts[e](ROWS[i, t])
    torch.testing.assert_close(made(ROWS), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.exact("Upcycle")
@pytest.mark.parametrize("top_k", [1, 2])
def test_the_router_learns(top_k):
    """A gate of one logit alone would be 1 whatever the router says."""
    made = layer(top_k=top_k)
    wanted = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    (found,) = torch.autograd.grad((made(ROWS) - wanted).square().mean(), [made.router.weight])
    assert found.abs().max() > 1e-3
    again = made.router.weight.detach().clone()
    with torch.no_grad():  # against differences, which move no choice
        for place in ((0, 0), (1, 2), (2, 1)):
            sides = []
            for step in (1e-6, -1e-6):
                made.router.weight.copy_(again)
                made.router.weight[place] += step
                sides.append((made(ROWS) - wanted).square().mean().item())
            assert found[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_an_expert_without_a_token_has_a_gradient_of_zero():
    made = layer()
    used = made.router(ROWS).topk(2, -1).indices.unique().tolist()
    assert 0 < len(used) < 4
    gradients = torch.autograd.grad(made(ROWS).sum(), [expert.weight for expert in made.experts])
    assert [e for e, g in enumerate(gradients) if g.any()] == used


@pytest.mark.exact("Upcycle")
def test_work_is_that_of_the_answers_and_the_router():
    dense, counts = gpt(), []
    for model in (dense, upcycled(dense, experts=4, top_k=3)[0]):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(TOKENS)
        counts.append(counter.get_total_flops())
    tokens, feed_forward, router = 2 * TOKENS.numel(), 2 * (8 * 32), 8 * 4
    assert counts[1] - counts[0] == 2 * tokens * (2 * feed_forward + router)


def test_routers_are_drawn_at_their_own_addresses():
    state = torch.random.get_rng_state()
    sparse, result = upcycled(gpt(), experts=64)
    again, _ = upcycled(gpt(), "blocks.1.mlp", experts=64)
    assert torch.equal(torch.random.get_rng_state(), state)
    one, two = (block.mlp.router.weight.detach() for block in sparse.blocks)
    assert not torch.equal(one, two)
    assert torch.equal(two, again.blocks[1].mlp.router.weight)
    assert not torch.equal(one, upcycled(gpt(), experts=64, seed=1)[0].blocks[0].mlp.router.weight)
    assert one.std().item() == pytest.approx(0.02, rel=0.1)
    assert one.dtype == torch.float64
    assert {name for name, old in result.names.items() if old is None} == {
        f"blocks.{place}.mlp.router.weight" for place in range(2)
    }


# -- in a run ----------------------------------------------------------------------------------------------


def two(*on_entry, **large):
    phases = [
        rg.Phase("dense", budget="50%"),
        rg.Phase("sparse", budget="50%", on_entry=list(on_entry), carry=["model", "optimizer"], **large),
    ]
    return rg.Regime(phases=phases, optimizer=rg.AdamW(lr=0.01), batch_size=6, budget="8 steps")


def test_every_expert_has_the_state_of_the_feed_forward_for_itself():
    run, old = Run(tiny.workload("transformer"), two(rg.Upcycle(experts=3)), seed=1), {}
    original = run.enter

    def entering(first=False):
        old.update(copy.deepcopy(run.states["optimizer"]["slots"]))
        original(first)

    run.enter = entering
    for _ in range(4):
        run.step()
    new = run.states["optimizer"]["slots"]
    slots = [new[f"blocks.1.mlp.experts.{e}.down.weight"] for e in range(3)]
    for slot in slots:
        assert slot["step"] == 4
        assert torch.equal(slot["exp_avg"], old["blocks.1.mlp.down.weight"]["exp_avg"])
    assert len({slot["exp_avg"].data_ptr() for slot in slots}) == 3
    assert new["blocks.1.mlp.router.weight"]["step"] == 0
    assert torch.equal(new["embed.weight"]["exp_avg"], old["embed.weight"]["exp_avg"])
    list(run)
    one, other = (run.model.blocks[1].mlp.experts[e].down.weight for e in (0, 1))
    assert not torch.equal(one, other)


def test_seams_resume_in_the_same_bits():
    regime = two(rg.GrowDepth(3), rg.GrowWidth(16), rg.Upcycle(experts=3), loss=rg.LoadBalance(rg.NextToken(), 0.1))
    assert resume_chain(lambda: Run(tiny.workload("transformer"), regime, seed=3), steps=8) == []


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp, self.head, self.act = nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3), nn.Sequential(nn.PReLU())
        self.head.weight = self.mlp[0].weight


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: rg.Upcycle(()), "patterns: got no pattern"),
        (lambda: rg.Upcycle(experts=2, top_k=3), "top_k: got 3; allowed: 1 to 2, the number of experts"),
        (lambda: rg.Upcycle(experts=1), "experts: got 1"),
        (lambda: upcycled(gpt(), "*.ffn"), r"patterns\.0: got '\*\.ffn', which matches no module"),
        (lambda: upcycled(gpt(), "*.mlp*"), r"got 'blocks\.0\.mlp' and 'blocks\.0\.mlp\.up' in it"),
        (lambda: upcycled(Halves(), "mlp"), r"patterns: 'mlp' shares 'head\.weight' with what is outside"),
        (lambda: upcycled(Halves(), "act"), r"patterns: 'act' \(Sequential\) holds no linear layer"),
        (
            lambda: rg.GrowWidth(16).structure(upcycled(gpt())[0]),
            "TinyGPT.grown makes a network of another form: only one of the two has 'blocks.0.mlp.down.weight'",
        ),
    ],
)
def test_what_cannot_be_experts_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
