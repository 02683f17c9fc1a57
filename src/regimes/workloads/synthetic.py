"""Problems with known answers: data from a counter-based generator, so an integer seed is all they depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from regimes.workloads.models import MLP
from regimes.workloads.tables import Split, Table

__all__ = [
    "TeacherStudent",
    "add_noise",
    "alpha_bar",
    "modular_addition",
    "skill_chain",
    "teacher_student",
    "two_moons",
    "with_errors",
]


def philox(name: str, seed: int) -> np.random.Generator:
    """A generator of its own for each (problem, seed).

    Raises
    ------
    ValueError
        If `seed` is not a whole number of at least 0.
    """
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed: got {seed!r}; allowed is a whole number of at least 0.")
    key = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], dtype="<u8").astype(np.uint64)))


@dataclass(frozen=True, eq=False)
class TeacherStudent:
    """A regression whose best network is known.

    Attributes
    ----------
    train, val, test : Split
        ``x`` ``[n, inputs]`` standard normal; ``y = teacher(x) + noise * xi`` ``[n, outputs]``.
    teacher : MLP
        Frozen. ``(student(x) - teacher(x))**2`` averaged is a student's excess risk without label noise.
    noise : float
        Standard deviation of the label noise; the teacher's outputs have mean 0 and standard deviation 1 on train.
    """

    train: Split
    val: Split
    test: Split
    teacher: MLP
    noise: float

    @property
    def best_loss(self) -> float:
        """The expected mean squared error of the teacher itself, which no student can beat: ``noise**2``."""
        return self.noise**2


def teacher_student(
    inputs: int = 16,
    hidden: int = 8,
    outputs: int = 1,
    train: int = 4096,
    held_out: int = 1024,
    noise: float = 0.1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> TeacherStudent:
    """Draw a teacher network with one hidden layer of ReLUs, and labelled data.

    ``y = a relu(W x + b) + c + noise * xi`` with ``x, xi`` standard normal, ``W`` of variance ``1 / inputs``, ``b``
    standard normal, and ``a, c`` such that the clean outputs have mean 0 and variance 1 over train. A student
    ``MLP((inputs, hidden, outputs))`` or a wider one can represent it exactly.

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths of the teacher.
    train, held_out : int
        Examples in train, and in each of val and test.
    noise : float
        Standard deviation of the label noise, in standard deviations of the clean output.
    seed : int
        Decides everything; the label noise itself does not depend on `noise`.
    dtype : torch.dtype
        ``float32`` or ``float64``. Drawn in double either way.

    Returns
    -------
    TeacherStudent

    Raises
    ------
    ValueError
        For a negative `noise`, a size below 1 (train: below 2), or a bad `seed`.

    References
    ----------
    D. Saad, S. Solla (1995). On-line learning in soft committee machines. Physical Review E 52, 4225-4243.
    https://doi.org/10.1103/PhysRevE.52.4225

    Examples
    --------
    >>> problem = teacher_student(inputs=4, hidden=3, noise=0.1)
    >>> problem.train.x.shape, problem.train.y.shape, round(problem.best_loss, 4)
    (torch.Size([4096, 4]), torch.Size([4096, 1]), 0.01)
    >>> round(float((problem.teacher(problem.test.x) - problem.test.y).square().mean()), 3)
    0.01
    """
    for name, value, least in (
        ("inputs", inputs, 1),
        ("hidden", hidden, 1),
        ("outputs", outputs, 1),
        ("train", train, 2),
        ("held_out", held_out, 1),
    ):
        _whole(name, value, least)
    if not noise >= 0:
        raise ValueError(f"noise: got {noise!r}; allowed is a standard deviation of at least 0.")
    draw = philox("teacher_student", seed)
    weight = draw.standard_normal((hidden, inputs)) / inputs**0.5
    bias = draw.standard_normal(hidden)
    readout = draw.standard_normal((outputs, hidden))
    sizes = (train, held_out, held_out)
    x = [draw.standard_normal((n, inputs)) for n in sizes]
    xi = [draw.standard_normal((n, outputs)) for n in sizes]

    def clean(points: np.ndarray) -> np.ndarray:
        return np.maximum(points @ weight.T + bias, 0) @ readout.T + offset

    offset = np.zeros(outputs)
    raw = clean(x[0])
    readout, offset = readout / raw.std(0)[:, None], -raw.mean(0) / raw.std(0)
    in_train, in_val, in_test = (
        Split(*(torch.from_numpy(a).to(dtype) for a in (points, clean(points) + noise * noises)))
        for points, noises in zip(x, xi)
    )

    with torch.device("meta"):  # the values are ours: no draw from torch's global generator
        teacher = MLP((inputs, hidden, outputs))
    values = {"0.weight": weight, "0.bias": bias, "1.weight": readout, "1.bias": offset}
    state = {f"layers.{name}": torch.from_numpy(value).to(dtype) for name, value in values.items()}
    teacher.load_state_dict(state, assign=True)
    return TeacherStudent(in_train, in_val, in_test, teacher.requires_grad_(False), noise)


def two_moons(n: int = 2000, noise: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float32) -> Split:
    """Draw points from two interleaving half circles.

    The upper moon is ``(cos a, sin a)``, the lower ``(1 - cos a, 1/2 - sin a)``, with ``a`` uniform in [0, pi], plus
    normal noise in both coordinates.

    Parameters
    ----------
    n : int
        Points, half of them (the larger half where odd) in the upper moon; in random order.
    noise : float
        Standard deviation of the noise.
    seed : int
        Decides everything.
    dtype : torch.dtype
        Of the points.

    Returns
    -------
    Split
        ``x`` ``[n, 2]``, ``y`` int64 ``[n]``: 0 upper, 1 lower.

    Raises
    ------
    ValueError
        For a negative `noise`, `n` below 2, or a bad `seed`.

    Examples
    --------
    >>> moons = two_moons(1000, noise=0.0)
    >>> upper = moons.x[moons.y == 0]
    >>> len(upper), bool((upper.norm(dim=1) - 1).abs().max() < 1e-6)
    (500, True)
    """
    _whole("n", n, 2)
    if not noise >= 0:
        raise ValueError(f"noise: got {noise!r}; allowed is a standard deviation of at least 0.")
    draw = philox("two_moons", seed)
    y = draw.permutation(np.arange(n) >= (n + 1) // 2)
    angle = np.pi * draw.random(n)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    points = np.where(y[:, None], np.array([1.0, 0.5]) - upper, upper)
    points += noise * draw.standard_normal((n, 2))
    return Split(torch.from_numpy(points).to(dtype), torch.from_numpy(y.astype(np.int64)))


def modular_addition(p: int = 97, fraction: float = 0.4, seed: int = 0) -> Table:
    """Split the full table of ``a + b mod p``: a random `fraction` trains, the rest is halved into val and test.

    Parameters
    ----------
    p : int
        Modulus, at least 2. There are ``p**2`` examples.
    fraction : float
        Of the table, for train; strictly between 0 and 1. Below about a quarter nothing generalizes, and a little
        above it generalization comes long after memorization ("grokking").
    seed : int
        Decides the permutation.

    Returns
    -------
    Table
        ``x`` int64 ``[n, 2]`` (a, b), ``y`` int64 ``[n]``.

    Raises
    ------
    ValueError
        For a modulus below 2, a fraction outside (0, 1) or one that leaves a split empty, or a bad `seed`.

    References
    ----------
    A. Power et al. (2022). Grokking: generalization beyond overfitting on small algorithmic datasets.
    https://arxiv.org/abs/2201.02177

    Examples
    --------
    >>> table = modular_addition(p=7, fraction=0.5)
    >>> len(table.train.y), len(table.val.y), len(table.test.y)
    (24, 12, 13)
    >>> bool(((table.val.x.sum(1) % 7) == table.val.y).all())
    True
    """
    _whole("p", p, 2)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction!r}; allowed is a number strictly between 0 and 1.")
    order = torch.from_numpy(philox("modular_addition", seed).permutation(p * p))
    x = torch.stack([order // p, order % p], 1)
    y = x.sum(1) % p
    n_train = int(fraction * p * p)
    n_val = (p * p - n_train) // 2
    if n_train == 0 or n_val == 0:
        raise ValueError(f"fraction: got {fraction!r}, which leaves a split of the {p * p} examples empty.")
    sizes = (n_train, n_val, p * p - n_train - n_val)
    train, val, test = (Split(a, b) for a, b in zip(x.split(sizes), y.split(sizes)))
    return Table("modular_addition", train, val, test, tuple(map(str, range(p))))


def skill_chain(
    skills: int = 5, modulus: int = 5, length: int = 6, train: int = 4096, held_out: int = 512, seed: int = 0
) -> dict[str, Table]:
    """Draw questions about chains of additions, skill i being skill i - 1 and one addition more.

    A chain is a row of terms ``c_1 ... c_length`` in ``0 ... modulus - 1``, and skill i asks for ``v_i = v_{i-1} + c_i``
    modulo `modulus`, with ``v_0 = 0``; the terms after c_i do not matter to it. With a modulus of 2 each variable is equal
    or opposite to the one before, as in LEGO. All skills are asked about the same chains.

    Parameters
    ----------
    skills : int
        How many, the easiest first.
    modulus : int
        At least 2.
    length : int
        Terms in a chain, at least `skills`.
    train, held_out : int
        Chains in train, and in each of val and test; no chain is in two of them.
    seed : int
        Decides which chains.

    Returns
    -------
    dict of str to Table
        By name, ``skill1`` to ``skill<skills>``: ``x`` float32 ``[n, length * modulus + skills]``, a 1 at the place of
        every term's value and at that of the skill, else 0; ``y`` int64 ``[n]``.

    Raises
    ------
    ValueError
        For a chain shorter than the skills, more chains than there are (or more than 2^24 in all), sizes that are too
        small, or a bad `seed`.

    References
    ----------
    Y. Zhang et al. (2022). Unveiling transformers with LEGO: a synthetic reasoning task.
    https://arxiv.org/abs/2206.04301 (modulus 2; there the steps come as text, in random order)

    Examples
    --------
    >>> tables = skill_chain(skills=2, modulus=3, length=2, train=5, held_out=2)
    >>> tables["skill2"].train.x[0].tolist(), tables["skill2"].train.y[0].item()
    ([0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 2)
    """
    sizes = {"skills": (skills, 1), "modulus": (modulus, 2), "train": (train, 1), "held_out": (held_out, 1)}
    for name, (value, least) in sizes.items():
        _whole(name, value, least)
    _whole("length", length, skills)
    chains = modulus**length
    if chains > 2**24:
        raise ValueError(f"length: got {length!r}; allowed are at most 2^24 chains, and there would be {chains}.")
    if train + 2 * held_out > chains:
        raise ValueError(f"train: got {train} chains and twice {held_out} held out; there are {chains} in all.")
    codes = philox("skill_chain", seed).permutation(chains)[: train + 2 * held_out]
    terms = torch.from_numpy(codes[:, None] // modulus ** np.arange(length) % modulus)
    values = terms.cumsum(1) % modulus
    seen = nn.functional.one_hot(terms, modulus).flatten(1).float()
    made = {}
    for place in range(skills):
        asked = torch.zeros(len(terms), skills)
        asked[:, place] = 1.0
        parts = (part.split((train, held_out, held_out)) for part in (torch.cat((seen, asked), 1), values[:, place]))
        in_train, in_val, in_test = (Split(x, y) for x, y in zip(*parts))
        name = f"skill{place + 1}"
        made[name] = Table(name, in_train, in_val, in_test, tuple(map(str, range(modulus))))
    return made


def alpha_bar(steps: int = 1000, schedule: str = "linear") -> Tensor:
    """Tabulate how much of the signal's variance is left after each step of a diffusion.

    ``alpha_bar[t] = prod_{s <= t} (1 - beta_s)``. ``linear``: ``beta`` from 1e-4 to 0.02 in 1000 steps, for other
    `steps` scaled by ``1000 / steps`` (at most 0.999) so that the end is as noisy. ``cosine``:
    ``alpha_bar(u) = cos^2((u + 0.008) / 1.008 * pi / 2)`` over its value at 0, each ``beta`` at most 0.999.

    Parameters
    ----------
    steps : int
        ``T``, at least 1.
    schedule : str
        ``"linear"`` (Ho et al.) or ``"cosine"`` (Nichol and Dhariwal).

    Returns
    -------
    Tensor
        float64 ``[steps]``, strictly decreasing in (0, 1).

    Raises
    ------
    ValueError
        For another schedule, or `steps` below 1.

    References
    ----------
    J. Ho, A. Jain, P. Abbeel (2020). Denoising diffusion probabilistic models. https://arxiv.org/abs/2006.11239
    A. Nichol, P. Dhariwal (2021). Improved denoising diffusion probabilistic models.
    https://arxiv.org/abs/2102.09672

    Examples
    --------
    >>> [f"{float(a):.2e}" for a in alpha_bar(1000)[[0, 499, 999]]]
    ['1.00e+00', '7.86e-02', '4.04e-05']
    >>> [f"{float(a):.2e}" for a in alpha_bar(1000, "cosine")[[0, 499, 999]]]
    ['1.00e+00', '4.94e-01', '2.43e-09']
    """
    _whole("steps", steps, 1)
    if schedule == "linear":
        beta = (torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * (1000 / steps)).clamp(max=0.999)
    elif schedule == "cosine":
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        left = torch.cos((u + 0.008) / 1.008 * torch.pi / 2).square()
        beta = (1 - left[1:] / left[:-1]).clamp(max=0.999)
    else:
        raise ValueError(f"schedule: got {schedule!r}; allowed are 'linear' and 'cosine'.")
    return (1 - beta).cumprod(0)


def add_noise(x: Tensor, noise: Tensor, t: Tensor, table: Tensor) -> Tensor:
    """Return ``sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise``, the input from which `noise` is predicted.

    Parameters
    ----------
    x, noise : Tensor
        Data ``x_0`` and standard normal ``eps``, both ``[batch, ...]``.
    t : Tensor
        int64 ``[batch]``, each in ``0 ... len(table) - 1``.
    table : Tensor
        From `alpha_bar`.

    Returns
    -------
    Tensor
        Shape and dtype of `x`.

    Examples
    --------
    >>> x, eps = torch.ones(2, 2), torch.zeros(2, 2)
    >>> add_noise(x, eps, torch.tensor([0, 1]), torch.tensor([0.64, 0.25]))
    tensor([[0.8000, 0.8000],
            [0.5000, 0.5000]])
    """
    left = table[t].view(-1, *[1] * (x.ndim - 1))
    return left.sqrt().to(x.dtype) * x + (1 - left).sqrt().to(x.dtype) * noise


def with_errors(text: Tensor, share: float, seed: int = 0) -> Tensor:
    """Return a text in which tokens are drawn anew from the text itself, each with probability `share`.

    Parameters
    ----------
    text : Tensor, shape (n,)
        Token numbers.
    share : float
        In [0, 1]. Some of what is drawn is what stood there.
    seed : int
        Decides where and what.

    Raises
    ------
    ValueError
        If the share is not in [0, 1].

    Examples
    --------
    >>> bytes(with_errors(torch.tensor(list(b"def add(left, right): return left")), 0.2).tolist()).decode()
    'dtfnadd(lefa, )ight)g rdturn lhft'
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share: got {share!r}; allowed is a share from 0 to 1.")
    draw = philox("errors", seed)
    wrong = torch.from_numpy(draw.random(len(text), dtype=np.float32) < share)
    others = text[torch.from_numpy(draw.integers(0, len(text), len(text)))]
    return torch.where(wrong, others, text)


def _whole(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(f"{name}: got {value!r}; allowed is a whole number of at least {least}.")
