"""Wider networks: the function kept, every value where the definition puts it, and state that follows."""

import copy

import pytest
import torch
from torch import nn

import regimes as rg
from regimes.core.randomness import Streams
from regimes.engine.run import Run
from regimes.model_transforms.widths import width_map
from regimes.testing.conformance import tiny
from regimes.testing.resume import resume_chain
from regimes.workloads.models import MLP, TinyGPT


def gpt(**settings):
    """A transformer in float64 in which no matrix is zero, as after training."""
    torch.manual_seed(0)
    model = TinyGPT(**{"vocab": 11, "layers": 3, "width": 8, "heads": 2, "context": 12} | settings).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def grown(model, width, mode="fpi", seed=0):
    transform = rg.GrowWidth(width, mode)
    large = transform.structure(copy.deepcopy(model))
    return large, transform.fill(large, model, iter(()), Streams(seed))


TOKENS = torch.randint(0, 11, (4, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.exact("GrowWidth")
@pytest.mark.parametrize("times", [2, 3])
def test_transformer_of_a_multiple_of_the_width_is_the_same_function(times):
    small = gpt()
    large, _ = grown(small, 8 * times)
    assert large.blocks[0].attention.heads == 2 * times
    assert large.head.weight.dtype == torch.float64
    torch.testing.assert_close(large(TOKENS), small(TOKENS), rtol=0, atol=1e-10)


class Own(nn.Module):
    """Somebody's model: LayerNorm, torch's attention, batch statistics, a table of positions made by hand."""

    def __init__(self, width=6, heads=2):
        super().__init__()
        self.width, self.heads = width, heads
        self.wte, self.pos_emb = nn.Embedding(11, width), nn.Parameter(torch.randn(12, width))
        self.norm, self.mix = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.up, self.flat, self.gain = (
            nn.Linear(width, 3 * width),
            nn.BatchNorm1d(12),
            nn.Parameter(torch.randn(width)),
        )
        self.down, self.head = nn.Linear(3 * width, width), nn.Linear(width, 5)
        self.wide = nn.BatchNorm1d(width)

    def grown(self, width):
        return type(self)(width, self.heads * width // self.width)

    def forward(self, tokens):
        x = self.wte(tokens) + self.pos_emb
        y = self.norm(x)
        x = x + self.mix(y, y, y, need_weights=False)[0]
        x = x + self.gain * self.down(self.flat(self.up(x)).tanh())
        return self.head(self.wide(x.mean(1)))


@pytest.mark.exact("GrowWidth")
def test_a_model_of_ones_own_is_the_same_function():
    torch.manual_seed(3)
    small = Own().double()
    with torch.no_grad():
        for p in small.parameters():
            p.copy_(torch.randn_like(p))
    small(TOKENS)  # statistics that are not those of a fresh norm
    small.eval()
    large, _ = grown(small, 12)
    assert not large.training
    assert large.wide.running_mean.shape == (12,)
    torch.testing.assert_close(large(TOKENS), small(TOKENS), rtol=0, atol=1e-10)
    large.train(), small.train()
    torch.testing.assert_close(large(TOKENS), small(TOKENS), rtol=0, atol=1e-10)


@pytest.mark.exact("GrowWidth")
@pytest.mark.parametrize("width", [12, 20, 32])
def test_without_a_norm_any_width_keeps_the_function(width):
    torch.manual_seed(0)
    small = MLP((5, 8, 4, 8, 3), "tanh").double()
    large, _ = grown(small, width)
    assert [layer.out_features for layer in large.layers] == [width, width // 2, width, 3]
    x = torch.randn(7, 5, dtype=torch.float64)
    torch.testing.assert_close(large(x), small(x), rtol=0, atol=1e-12)


@pytest.mark.exact("GrowWidth")
def test_values_are_those_of_a_plain_twin():
    """Entry by entry, with heads and parts counted out; width 8 -> 12, 2 heads of 4 -> 3."""
    small = gpt(layers=1)
    large, _ = grown(small, 12)
    old, new = (dict(m.named_parameters()) for m in (small, large))
    occurs = [sum(1 for j in range(12) if j % 8 == i) for i in range(8)]
    for part in range(3):
        for head in range(3):
            for feature in range(4):
                for j in range(12):
                    row = part * 8 + (head % 2) * 4 + feature
                    wanted = old["blocks.0.attention.qkv.weight"][row, j % 8] / occurs[j % 8]
                    assert new["blocks.0.attention.qkv.weight"][part * 12 + head * 4 + feature, j] == wanted
    for i in range(12):
        for part in range(4):
            for j in range(12):
                wanted = old["blocks.0.mlp.down.weight"][i % 8, part * 8 + j % 8] / occurs[j % 8]
                assert new["blocks.0.mlp.down.weight"][i, part * 12 + j] == wanted
    for j in range(12):
        assert torch.equal(new["embed.weight"][:, j], old["embed.weight"][:, j % 8])
        assert torch.equal(new["head.weight"][:, j], old["head.weight"][:, j % 8] / occurs[j % 8])


def test_map_is_the_identity_on_old_indices_of_every_part():
    assert width_map(24, 36, 8, 12).view(3, 12)[:, :8].tolist() == torch.arange(24).view(3, 8).tolist()
    assert width_map(5, 9, 8, 12).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


@pytest.mark.exact("GrowWidth")
def test_extra_rows_come_from_the_next_block():
    small = gpt()
    exact, _ = grown(small, 16)
    mixed, _ = grown(small, 16, "aki")
    one, two = (dict(m.named_parameters()) for m in (exact, mixed))
    for block in range(3):
        for own, parts in [("attention.qkv", 3), ("attention.out", 1), ("mlp.up", 4), ("mlp.down", 1)]:
            name, after = (f"blocks.{b}.{own}.weight" for b in (block, min(block + 1, 2)))
            halves = two[name].view(parts, 2, 8, -1)
            assert torch.equal(halves[:, 0], one[name].view(parts, 2, 8, -1)[:, 0])
            assert torch.equal(halves[:, 1], one[after].view(parts, 2, 8, -1)[:, 1])
    for name in ("embed.weight", "head.weight"):
        assert torch.equal(one[name], two[name])
    assert (mixed(TOKENS) - small(TOKENS)).abs().max() > 1e-3


def test_rows_of_another_form_come_from_their_own_layer():
    """In a plain network the next layer seldom has as many inputs; its biases alone would fit, and stay with it."""
    small = MLP((5, 8, 8, 3))
    exact, mixed = (grown(small, 16, mode)[0] for mode in ("fpi", "aki"))
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), mixed.parameters()))
    small = MLP((8, 8, 8, 3))
    mixed, _ = grown(small, 16, "aki")
    assert torch.equal(mixed.layers[0].bias, torch.cat([small.layers[0].bias, small.layers[1].bias]))


@pytest.mark.exact("GrowWidth")
def test_fresh_is_the_wide_network_made_at_once():
    small, streams = gpt().float(), Streams(5)
    transform = rg.GrowWidth(16, "fresh")
    large = transform.structure(copy.deepcopy(small))
    state = torch.random.get_rng_state()
    result = transform.fill(large, small, iter(()), streams)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(streams.seed32("grow"))
    twin = TinyGPT(11, 3, 16, 4, 12)
    assert all(torch.equal(a, b) for a, b in zip(large.parameters(), twin.parameters()))
    assert set(result.names.values()) == {None}


# -- in a run ----------------------------------------------------------------------------------------------


def two(mode="fpi", optimizer=None, carry=("model", "optimizer"), before=()):
    return rg.Regime(
        phases=[
            rg.Phase("small", budget="50%", on_entry=list(before)),
            rg.Phase("large", budget="50%", on_entry=rg.GrowWidth(16, mode), carry=list(carry)),
        ],
        optimizer=optimizer or rg.AdamW(lr=0.01),
        batch_size=6,
        budget="8 steps",
    )


def halfway(regime):
    """A run at its seam: states and weights just before, and the run just after."""
    run, kept = Run(tiny.workload("transformer"), regime, seed=1), {}
    original = run.enter

    def entering(first=False):
        kept.update(model=copy.deepcopy(run.model), states=copy.deepcopy(run.states))
        original(first)

    run.enter = entering
    for _ in range(4):
        run.step()
    return run, kept


@pytest.mark.exact("GrowWidth")
def test_state_of_what_grew_goes_round_with_its_features():
    run, kept = halfway(two())
    old, new = kept["states"]["optimizer"]["slots"], run.states["optimizer"]["slots"]
    twice = torch.cat((torch.arange(8), torch.arange(8)))
    parts = torch.cat([8 * part + twice for part in range(3)])
    qkv = "blocks.0.attention.qkv.weight"
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(new[qkv][key], old[qkv][key][parts][:, twice])
        assert torch.equal(new["embed.weight"][key], old["embed.weight"][key][:, twice])
        assert new[qkv][key].abs().sum() > 0
    assert {slot["step"] for slot in new.values()} == {4}
    assert run.seams[-1]["carried"] == ["model", "optimizer"]


def test_state_that_a_rule_makes_later_goes_round_too():
    """SGD's momentum is missing from a fresh state."""
    run, kept = halfway(two(optimizer=rg.SGD(lr=0.1, momentum=0.9)))
    old, new = (s["optimizer"]["slots"]["head.weight"]["momentum_buffer"] for s in (kept["states"], run.states))
    assert torch.equal(new, old[:, torch.arange(16) % 8])
    list(run)


def test_doubling_keeps_the_loss_of_the_run_and_copies_stay_alike():
    run, kept = halfway(two())
    tokens = torch.randint(0, 7, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(run.model(tokens), kept["model"](tokens), rtol=0, atol=1e-6)
    list(run)
    weight = run.model.embed.weight.detach()
    torch.testing.assert_close(weight[:, :8], weight[:, 8:], rtol=0, atol=1e-6)
    moved, _ = halfway(two("aki"))
    list(moved)
    weight = moved.model.embed.weight.detach()
    assert (weight[:, :8] - weight[:, 8:]).abs().max() > 1e-4


def test_without_carry_state_is_fresh_and_groups_match_anew():
    groups = rg.Groups([rg.Group("*.mlp.*", rg.AdamW(lr=0.01)), rg.Group("*", rg.SGD(lr=0.1, momentum=0.9))])
    run, _ = halfway(two(optimizer=groups, carry=("model",)))
    assert run.states["optimizer"]["0"]["slots"]["blocks.1.mlp.up.weight"]["step"] == 0
    run, kept = halfway(two(optimizer=groups))
    old, new = (s["optimizer"]["0"]["slots"]["blocks.1.mlp.up.weight"] for s in (kept["states"], run.states))
    assert new["exp_avg"].shape == (64, 16)
    assert torch.equal(new["exp_avg"][:8, :8], old["exp_avg"][:8])
    list(run)


@pytest.mark.parametrize("mode", ["aki", "fresh"])
def test_seams_resume_in_the_same_bits(mode):
    regime = two(mode, optimizer=rg.Muon(lr=0.01) if mode == "aki" else None, before=[rg.Freeze("embed.*")])
    assert resume_chain(lambda: Run(tiny.workload("transformer"), regime, seed=3), steps=8) == []


def test_what_is_frozen_stays_frozen_and_trained_parameters_grow():
    run, _ = halfway(two(before=[rg.Freeze("embed.*")]))
    assert [name for name, p in run.model.named_parameters() if not p.requires_grad] == ["embed.weight"]
    assert run.model.embed.weight.shape == (7, 16)


# -- refusals ----------------------------------------------------------------------------------------------


class Tied(Own):
    def __init__(self, width=6, heads=2):
        super().__init__(width, heads)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.wte.weight


class Convolved(Own):
    def __init__(self, width=6, heads=2):
        super().__init__(width, heads)
        self.conv = nn.Conv1d(width, width, 3)


class Other(Own):
    def grown(self, width):
        return MLP((width, 2 * width, 3))


@pytest.mark.parametrize(
    ("act", "sentence"),
    [
        (lambda: grown(nn.Linear(2, 2), 4), "width: Linear does not say how it grows; give it a number `width`"),
        (lambda: grown(gpt(), 8), "width: got 8; allowed: more than the model's width, 8"),
        (lambda: grown(gpt(), 4, "fresh"), "width: got 4; allowed: more"),
        (lambda: grown(gpt(), 10), "width: .*allowed are multiples of 4, the size of a head"),
        (lambda: grown(MLP((3, 4, 6, 2)), 5), "width: .*in proportion"),
        (lambda: grown(Tied(), 12), r"nothing says which axis of 'wte\.weight', shape \(11, 6\)"),
        (lambda: grown(Convolved(), 12), r"nothing says which axis of 'conv\.weight'"),
        (lambda: grown(Other(), 12), "Other.grown makes a network of another form: only one of the two has"),
        (lambda: rg.GrowWidth(16, "net2net"), "mode: got 'net2net'"),
        (
            lambda: list(
                Run(tiny.workload("transformer"), two(carry=("model", "average")).but({"*.average": rg.EMA(0.9)}), 0)
            ),
            "carry: got 'average', but EMA keeps weights, which GrowWidth",
        ),
    ],
)
def test_what_cannot_grow_is_refused(act, sentence):
    with pytest.raises(rg.DeclarationError, match=sentence):
        act()
