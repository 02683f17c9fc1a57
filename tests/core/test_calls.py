"""Calls of torch's functions inside a region: answered, left alone, and met inside torch's own attention."""

import torch
from torch import nn
from torch.nn import functional as F

from regimes.core.calls import Calls


def doubled(function, args, kwargs):
    return 2 * function(*args, **kwargs)


def test_only_what_is_asked_for_is_answered_and_only_inside():
    x = torch.ones(1, 3)
    with Calls({F.linear: doubled}):
        assert F.linear(x, x).item() == 6.0
        assert nn.Linear(3, 1, bias=False).requires_grad_(False)(x).shape == (1, 1)
        assert (x @ x.mT).item() == 3.0
    assert F.linear(x, x).item() == 3.0


def test_what_an_answer_calls_is_not_answered_by_itself_but_by_what_stands_around():
    x = torch.ones(1, 3)
    with Calls({F.linear: doubled}), Calls({F.linear: doubled}):
        assert F.linear(x, x).item() == 12.0


def test_torchs_attention_computes_the_same_when_it_is_looked_into():
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    x, met = torch.randn(2, 5, 8), []

    def hear(function, args, kwargs):
        met.append(function)
        return function(*args, **kwargs)

    for weights in (False, True):
        wanted = net(x, x, x, need_weights=weights)[0]
        with Calls({F.linear: hear, F.scaled_dot_product_attention: hear, torch.bmm: hear}):
            assert torch.equal(net(x, x, x, need_weights=weights)[0], wanted)
    assert met == [F.linear, F.scaled_dot_product_attention, F.linear, F.linear, torch.bmm, torch.bmm, F.linear]
