"""Sums as text, whose answers can be verified: a small causal transformer, and questions that it answers itself."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from regimes.core.errors import DeclarationError, show
from regimes.engine.workload import Workload
from regimes.losses import PolicyGradient
from regimes.sources.rollouts import NONE, Rollouts
from regimes.sources.tensors import Tensors
from regimes.workloads.synthetic import philox
from regimes.workloads.transformer import Block, rms_norm

#: Tokens: the digits are themselves.
PLUS, EQUALS, END, VOCABULARY = 10, 11, 12, 13


class SumLM(nn.Module):
    """A pre-norm causal transformer with learned positions, for texts that are all written in the same places.

    Parameters
    ----------
    context : int
        The longest text.
    vocabulary, width, heads, layers : int

    Notes
    -----
    Learned positions, and starting every matrix at the size of what it is given, decide how soon sums are learned: with
    rotary positions and blocks that start at zero, no digit was right before 600 steps that take 150 here.

    Examples
    --------
    >>> model = SumLM(8)
    >>> model(torch.zeros(5, 6, dtype=torch.int64)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([5, 6, 13]), 13376)
    """

    def __init__(
        self, context: int, vocabulary: int = VOCABULARY, width: int = 32, heads: int = 4, layers: int = 1
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.blocks.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        nn.init.normal_(self.head.weight, std=width**-0.5)
        nn.init.normal_(self.embed.weight, std=0.3)
        nn.init.normal_(self.position, std=0.3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[batch, length]`` to the logits of each next token, ``[batch, length, vocabulary]``."""
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(rms_norm(x))


def arithmetic_lm(
    modulus: int = 100,
    known: float = 0.3,
    held_out: int = 1000,
    answers: int = 8,
    width: int = 32,
    heads: int = 4,
    layers: int = 1,
    seed: int = 0,
) -> Workload:
    """Return sums modulo a number in decimal digits, the lowest first: ``74+56=`` (47 + 65) asks for ``21`` and the end.

    Source ``known`` is the share of the training questions that a model may be pre-trained on (``Mixture(known=1)``),
    ``new`` the rest. Both are `Rollouts`: a batch holds demonstrations and answers of the present policy, and the
    reward is 1 for the right sum, else 0. The workload's own loss is the cross-entropy of the demonstrations. Its metric
    ``reward`` is that of greedy decoding of held-out questions.

    Parameters
    ----------
    modulus : int
        From 2 on. Default 100: two digits and a carry.
    known : float
        Default 0.3.
    held_out : int
        Questions in val, and in test.
    answers : int
        To each question of a batch. 0: demonstrations only.
    width, heads, layers : int
        Of the transformer.
    seed : int
        Decides which questions are where.

    Raises
    ------
    DeclarationError
        For a modulus below 2, a share outside (0, 1), or more held-out questions than there are.

    References
    ----------
    N. Lee et al., Teaching Arithmetic to Small Transformers, 2023, arXiv:2307.03381 (the lowest digit first).
    """
    if type(modulus) is not int or modulus < 2:
        raise DeclarationError(f"got {show(modulus)}; allowed: a whole number >= 2", "modulus")
    if not 0 < known < 1:
        raise DeclarationError(f"got {show(known)}; allowed: a number > 0 and < 1", "known")
    order = torch.from_numpy(philox("arithmetic_lm", seed).permutation(modulus**2))
    count = len(order) - 2 * held_out
    first = round(known * count)
    if held_out < 1 or not 0 < first < count:
        raise DeclarationError(
            f"got {show(held_out)} of {modulus**2} questions; allowed: 1 or more, so that both sources have some",
            "held_out",
        )
    parts = order.split([first, count - first, held_out, held_out])
    reward = functools.partial(right, modulus=modulus)
    train = {
        name: Rollouts(*questions(part, modulus), reward, end=END, answers=answers)
        for name, part in zip(("known", "new"), parts)
    }
    prompts, demonstrations = questions(order[:1], modulus)
    context = prompts.shape[1] + demonstrations.shape[1] - 1
    model = functools.partial(SumLM, context, VOCABULARY, width, heads, layers)
    val, test = (teacher_forced(part, modulus) for part in parts[2:])
    return Workload(
        model=model, train=train, val=val, test=test, loss=PolicyGradient.sft(), metrics={"reward": greedy_reward},
        name="arithmetic_lm", eval_batch=1000,
    )  # fmt: skip


def questions(codes: Tensor, modulus: int) -> tuple[Tensor, Tensor]:
    """Return prompts ``a+b=`` and the answers with their end as tokens, of questions a * modulus + b.

    Examples
    --------
    >>> questions(torch.tensor([4765]), 100)
    (tensor([[ 7,  4, 10,  5,  6, 11]]), tensor([[ 2,  1, 12]]))
    """
    a, b = codes // modulus, codes % modulus
    digits = len(str(modulus - 1))

    def sign(token: int) -> Tensor:
        return torch.full((len(codes), 1), token)

    prompts = torch.cat((written(a, digits), sign(PLUS), written(b, digits), sign(EQUALS)), 1)
    return prompts, torch.cat((written((a + b) % modulus, digits), sign(END)), 1)


def written(numbers: Tensor, digits: int) -> Tensor:
    """Return numbers as decimal digits, the lowest first, shape (n, digits)."""
    return numbers[:, None] // 10 ** torch.arange(digits) % 10


def right(prompts: Tensor, answers: Tensor, modulus: int) -> Tensor:
    """Return 1.0 for each answer that is the sum and then ends, else 0.0.

    Parameters
    ----------
    prompts : Tensor, shape (b, p)
    answers : Tensor, shape (b, n, limit)
    modulus : int

    Examples
    --------
    >>> right(torch.tensor([[7, 4, 10, 5, 6, 11]]), torch.tensor([[[2, 1, 12], [2, 1, 0], [12, -100, -100]]]), 100)
    tensor([[1., 0., 0.]])
    """
    digits = answers.shape[2] - 1
    powers = 10 ** torch.arange(digits, device=prompts.device)
    a, b = (prompts[:, start : start + digits] @ powers for start in (0, digits + 1))
    total = (a + b) % modulus
    wanted = torch.cat((total[:, None] // powers % 10, torch.full_like(total, END)[:, None]), 1)
    return (answers == wanted[:, None]).all(2).to(torch.get_default_dtype())


def teacher_forced(codes: Tensor, modulus: int) -> Tensors:
    """Return questions with their answers as (inputs, targets), -100 where nothing is asked."""
    prompts, answers = questions(codes, modulus)
    silent = torch.full((len(codes), prompts.shape[1] - 1), NONE)
    return Tensors(torch.cat((prompts, answers[:, :-1]), 1), torch.cat((silent, answers), 1))


def greedy_reward(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where greedy decoding would give the target, shape (n,): where, led along it, every token is the likeliest.

    That is the same: a greedy answer first differs where the likeliest token after a right beginning is another.
    """
    return ((output.argmax(-1) == target) | (target == NONE)).all(1).double()
