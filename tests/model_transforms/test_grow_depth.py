"""Deeper networks: which block comes from which, the function kept, and state that follows."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain
from regimes.workloads.models import TinyGPT
from regimes.workloads.transformer import as_complex, rms_norm

OUTPUTS = ("attention.out.*", "mlp.down.*")
TOKENS = torch.randint(0, 11, (4, 12), generator=torch.Generator().manual_seed(1))


def gpt(layers=2):
    torch.manual_seed(0)
    model = TinyGPT(vocab=11, layers=layers, width=8, context=12).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def grown(model, *settings, **named):
    transform = rg.GrowDepth(*settings, **named)
    deep = transform.structure(copy.deepcopy(model))
    return deep, transform.fill(deep, model, iter(()), Streams(0))


@pytest.mark.exact("GrowDepth")
@pytest.mark.parametrize(("layers", "wanted"), [(4, [0, 0, 1, 1]), (3, [0, 0, 1]), (5, [0, 0, 0, 1, 1])])
def test_zeroed_copies_keep_the_function_bit_by_bit(layers, wanted):
    small = gpt()
    deep, result = grown(small, layers, "zero", outputs=OUTPUTS)
    assert torch.equal(deep(TOKENS), small(TOKENS))
    seen = set()
    for place, old in enumerate(wanted):
        weight, down = deep.blocks[place].mlp.up.weight, deep.blocks[place].mlp.down.weight
        assert torch.equal(weight, small.blocks[old].mlp.up.weight)
        assert bool(down.any()) == (old not in seen)
        assert result.names[f"blocks.{place}.mlp.up.weight"] == (None if old in seen else f"blocks.{old}.mlp.up.weight")
        seen.add(old)


@pytest.mark.exact("GrowDepth")
@pytest.mark.parametrize(
    ("mode", "layers", "wanted"),
    [
        ("stack", 6, [0, 1, 2, 0, 1, 2]),
        ("interpolate", 6, [0, 0, 1, 1, 2, 2]),
        ("stack", 4, [0, 1, 2, 0]),
        ("interpolate", 4, [0, 0, 1, 2]),
        ("interpolate", 7, [0, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_the_deep_network_is_the_old_blocks_in_their_order(mode, layers, wanted):
    small = gpt(layers=3)
    deep, result = grown(small, layers, mode)
    x = small.embed(TOKENS)
    for old in wanted:
        x = small.blocks[old](x, as_complex(small.rotation), True)
    assert torch.equal(deep(TOKENS), small.head(rms_norm(x)))
    blocks = [result.names[f"blocks.{place}.mlp.up.weight"] for place in range(layers)]
    assert blocks == [f"blocks.{old}.mlp.up.weight" for old in wanted]
    assert result.names["head.weight"] == "head.weight"


def test_copies_are_tensors_of_their_own_in_any_kind_of_list():
    small = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    deep, _ = grown(small, 4, blocks="1")
    assert type(deep[1]) is nn.Sequential
    assert len({p.data_ptr() for p in deep.parameters()}) == 10
    x = torch.randn(2, 3)
    a, b = small[1]
    assert torch.equal(deep(x), b(b(a(a(small[0](x))))))


def two(*on_entry, carry=("model", "optimizer"), before=()):
    phases = [
        rg.Phase("small", budget="50%", on_entry=list(before)),
        rg.Phase("large", budget="50%", on_entry=list(on_entry), carry=list(carry)),
    ]
    return rg.Regime(phases=phases, optimizer=rg.AdamW(lr=0.01), batch_size=6, budget="8 steps")


def halfway(regime):
    run, kept = Run(tiny.workload("transformer"), regime, seed=1), {}
    original = run.enter

    def entering(first=False):
        kept.update(copy.deepcopy(run.states["optimizer"]["slots"]))
        original(first)

    run.enter = entering
    for _ in range(4):
        run.step()
    return run, kept


@pytest.mark.exact("GrowDepth")
def test_state_is_that_of_the_block_copied():
    run, old = halfway(two(rg.GrowDepth(4, "stack")))
    new = run.states["optimizer"]["slots"]
    for place in range(4):
        slots = (slots[f"blocks.{at}.mlp.up.weight"] for slots, at in ((new, place), (old, place % 2)))
        assert torch.equal(*(slot["exp_avg_sq"] for slot in slots))
    assert {slot["step"] for slot in new.values()} == {4}
    first, copied = (new[f"blocks.{at}.mlp.up.weight"]["exp_avg"] for at in (0, 2))
    run.step()
    assert not torch.equal(first, copied)  # no longer one tensor


def test_state_of_zeroed_copies_begins_anew():
    run, _ = halfway(two(rg.GrowDepth(4, "zero", outputs=OUTPUTS)))
    new = run.states["optimizer"]["slots"]
    assert [new[f"blocks.{place}.mlp.up.weight"]["step"] for place in range(4)] == [4, 0, 4, 0]


def test_depth_and_width_grow_in_one_seam():
    run, old = halfway(two(rg.GrowDepth(4), rg.GrowWidth(16)))
    twice = torch.arange(16) % 8
    for place in range(4):
        slot = run.states["optimizer"]["slots"][f"blocks.{place}.attention.out.weight"]
        assert torch.equal(
            slot["exp_avg"], old[f"blocks.{place // 2}.attention.out.weight"]["exp_avg"][twice][:, twice]
        )
    list(run)
    assert sum(p.numel() for p in run.model.parameters()) == 2 * 7 * 16 + 12 * 4 * 16**2


@pytest.mark.parametrize(
    "on_entry", [[rg.GrowDepth(3, "zero", outputs=OUTPUTS)], [rg.GrowDepth(4, "stack"), rg.GrowWidth(12)]]
)
def test_seams_resume_in_the_same_bits(on_entry):
    regime = two(*on_entry, before=[rg.Freeze("blocks.0.*")])
    assert resume_chain(lambda: Run(tiny.workload("transformer"), regime, seed=3), steps=8) == []


def test_copies_of_what_is_frozen_are_frozen():
    run, _ = halfway(two(rg.GrowDepth(4), before=[rg.Freeze("blocks.0.*")]))
    frozen = {name.split(".")[1] for name, p in run.model.named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1"}


def shared(within):
    net = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(3, 3) for _ in range(2)), "head": nn.Linear(3, 3)})
    net["blocks"][0].weight = net["blocks"][1].weight if within else net["head"].weight
    return net


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: grown(gpt(), 4, blocks="block"), "blocks: got 'block', which is no list .* did you mean 'blocks'"),
        (lambda: grown(gpt(), 4, blocks="head"), "blocks: got 'head', which is no list of blocks"),
        (lambda: grown(gpt(), 2), "layers: got 2; allowed: more than the 2 blocks that it has"),
        (lambda: rg.GrowDepth(4, "zero"), "outputs: got no pattern in mode 'zero'"),
        (lambda: rg.GrowDepth(4, outputs=["mlp.*"]), "outputs: got .* in mode 'interpolate'"),
        (lambda: grown(gpt(), 4, "zero", outputs=["mlp.up.*", "mlp.don.*"]), r"outputs\.1: got 'mlp\.don\.\*'"),
        (lambda: grown(shared(True), 4), r"blocks: 'blocks\.0' shares 'blocks\.1\.weight'"),
        (lambda: grown(shared(False), 4), r"blocks: 'blocks\.0' shares 'head\.weight' with what is outside it"),
    ],
)
def test_what_cannot_grow_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
