"""Small networks for the built-in workloads, written to be quick on a CPU and to have telling parameter names.

Every matrix belongs to a module named by what it does (``embed``, ``attention.qkv``, ``mlp.up``, ``head`` ...), so
that groups can be matched by a pattern. Construction draws from torch's global generator, as any module's does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regimes.losses.noprop import cosine_levels, posterior
from regimes.workloads.transformer import Block, as_complex, initialize, rms_norm, rotation_table

__all__ = [
    "MLP",
    "Denoiser",
    "DenoisingBlocks",
    "ModularMLP",
    "ModularTransformer",
    "RandomFeatures",
    "SmallCNN",
    "TinyGPT",
]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}


class MLP(nn.Module):
    """Linear layers with an activation between them; inputs ``[batch, ...]`` are flattened.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden widths, outputs: at least two numbers.
    activation : str
        ``"relu"``, ``"gelu"`` or ``"tanh"`` (the last two are smooth, for curvature).

    Raises
    ------
    ValueError
        For fewer than two sizes, a size below 1, or another activation.

    Notes
    -----
    Parameters: ``layers.0.weight``, ``layers.0.bias``, ``layers.1.weight`` ... with torch's default initialization.

    Examples
    --------
    >>> model = MLP((64, 32, 10))
    >>> model(torch.zeros(5, 1, 8, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([5, 10]), 2410)
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu") -> None:
        super().__init__()
        sizes = tuple(sizes)
        if len(sizes) < 2 or any(type(size) is not int or size < 1 for size in sizes):
            raise ValueError(f"sizes: got {sizes!r}; allowed are two or more whole numbers of at least 1.")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: got {activation!r}; allowed are {', '.join(map(repr, ACTIVATIONS))}.")
        self.activation = activation
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, ...]`` to ``[batch, sizes[-1]]``."""
        activation = ACTIVATIONS[self.activation]
        *hidden, last = self.layers
        x = x.flatten(1)
        for layer in hidden:
            x = activation(layer(x))
        return last(x)

    @property
    def width(self) -> int:
        """Features of the first hidden layer."""
        return self._sizes()[1]

    def grown(self, width: int) -> MLP:
        """Return a fresh network whose first hidden layer has `width` features, the others in proportion.

        Raises
        ------
        ValueError
            If there is no hidden layer, or one does not come out whole.

        Examples
        --------
        >>> [layer.out_features for layer in MLP((64, 32, 16, 10)).grown(48).layers]
        [48, 24, 10]
        """
        first, *hidden, last = self._sizes()
        if not hidden or any(size * width % self.width for size in hidden):
            raise ValueError(
                f"width: got {width!r}; allowed is what widens the hidden layers, {hidden}, in proportion."
            )
        return type(self)((first, *[size * width // self.width for size in hidden], last), self.activation)

    def _sizes(self) -> list[int]:
        linear: list[Any] = list(self.layers)
        return [linear[0].in_features, *[layer.out_features for layer in linear]]


class RandomFeatures(nn.Module):
    """A fixed random expansion and a linear head without biases: ``W relu(B x)``; inputs are flattened.

    Parameters
    ----------
    inputs, features, outputs : int
        Numbers in an example, random features of it, outputs.

    Notes
    -----
    ``expansion.weight`` keeps torch's default initialization and is not trained; ``head.weight`` is.

    Examples
    --------
    >>> model = RandomFeatures(64, 500, 10)
    >>> model(torch.zeros(5, 1, 8, 8)).shape, [name for name, p in model.named_parameters() if p.requires_grad]
    (torch.Size([5, 10]), ['head.weight'])
    """

    def __init__(self, inputs: int, features: int, outputs: int) -> None:
        super().__init__()
        self.expansion = nn.Linear(inputs, features, bias=False).requires_grad_(False)
        self.head = nn.Linear(features, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, ...]`` to ``[batch, outputs]``."""
        return self.head(F.relu(self.expansion(x.flatten(1))))


class SmallCNN(nn.Module):
    """Two convolutions, each followed by 2x2 pooling, and two linear layers, for 8x8 images (9,258 parameters).

    Parameters
    ----------
    classes : int
        Outputs.
    batch_norm : bool
        Normalize after each convolution with the statistics of the micro-batch, so that examples interact and
        there are buffers to look after (9,306 parameters; the convolutions lose their biases).

    Examples
    --------
    >>> model = SmallCNN()
    >>> model(torch.zeros(5, 1, 8, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([5, 10]), 9258)
    """

    def __init__(self, classes: int = 10, batch_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(16) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(32) if batch_norm else nn.Identity()
        self.hidden = nn.Linear(32 * 2 * 2, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[batch, 1, 8, 8]`` to logits ``[batch, classes]``."""
        # Pooling first leaves a quarter of the work to the activation; the two commute.
        x = F.relu(F.max_pool2d(self.norm1(self.conv1(x)), 2))
        x = F.relu(F.max_pool2d(self.norm2(self.conv2(x)), 2))
        return self.head(F.relu(self.hidden(x.flatten(1))))


class Denoiser(nn.Module):
    """A residual MLP that predicts the noise in points of a plane, given the time of the diffusion.

    Parameters
    ----------
    width : int
        Hidden width.
    depth : int
        Residual blocks.
    frequencies : int
        The time enters as ``sin`` and ``cos`` of ``2^k * pi * time / 2`` for ``k = 0 ... frequencies - 1``.

    Examples
    --------
    >>> model = Denoiser()
    >>> points, time = torch.zeros(5, 2), torch.linspace(0, 1, 5)
    >>> model(points, time).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([5, 2]), 13570)
    """

    frequency: Tensor

    def __init__(self, width: int = 64, depth: int = 3, frequencies: int = 6) -> None:
        super().__init__()
        self.register_buffer("frequency", 2.0 ** torch.arange(frequencies) * (torch.pi / 2), persistent=False)
        self.embed = nn.Linear(2 + 2 * frequencies, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map points ``[batch, 2]`` and times ``[batch]`` in [0, 1] to noise ``[batch, 2]``."""
        angle = time[:, None] * self.frequency
        x = self.embed(torch.cat((x, angle.sin(), angle.cos()), 1))
        for block in self.blocks:
            x = x + block(F.silu(x))
        return self.head(F.silu(x))


class DenoisingBlock(nn.Module):
    """Logits of the class from an example and a noisy embedding of its label: two hidden layers.

    Parameters
    ----------
    inputs, embedding, width, classes : int
        Numbers in an example and in an embedding, hidden width, outputs.
    """

    def __init__(self, inputs: int, embedding: int, width: int, classes: int) -> None:
        super().__init__()
        self.example = nn.Linear(inputs, width)
        self.label = nn.Linear(embedding, width, bias=False)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` and ``[batch, embedding]`` to ``[batch, classes]``."""
        return self.head(F.relu(self.hidden(F.relu(self.example(x) + self.label(z)))))


class DenoisingBlocks(nn.Module):
    """A stack of blocks that turns noise into the embedding of an example's class, and a linear head that reads it.

    Every block looks at the example and at what the one before it left. ``model(x)`` draws z_0 from N(0, I) and moves
    it by block after block (`regimes.losses.noprop.posterior`); its noise comes from torch's global generator. The head
    begins as the embedding.

    Parameters
    ----------
    inputs, classes : int
        Numbers in an example (which is flattened), outputs.
    blocks, width : int
        Blocks, and the width of their hidden layers.
    embedding : int, optional
        Width of a learned embedding. Default: one-hot, fixed.

    Examples
    --------
    >>> model = DenoisingBlocks(64, 10)
    >>> model(torch.zeros(4, 1, 8, 8)).shape, model.trajectory(torch.zeros(4, 64)).shape
    (torch.Size([4, 10]), torch.Size([6, 4, 10]))
    >>> logits, answers = model(torch.zeros(4, 64), z=torch.zeros(6, 4, 10))
    >>> logits.shape, answers.shape
    (torch.Size([5, 4, 10]), torch.Size([4, 10]))
    """

    alpha_bar: Tensor
    embedding: Tensor
    steps: Tensor

    def __init__(
        self, inputs: int, classes: int, blocks: int = 5, width: int = 64, embedding: int | None = None
    ) -> None:
        super().__init__()
        size = classes if embedding is None else embedding
        levels = cosine_levels(blocks)
        self.register_buffer("alpha_bar", levels, persistent=False)  # float64: 1 - alpha_bar is as small as 1e-4
        self.register_buffer("steps", torch.stack(posterior(levels), 1).float(), persistent=False)  # a, b, c of each
        if embedding is None:
            self.register_buffer("embedding", torch.eye(classes), persistent=False)
        else:
            self.embedding = nn.Parameter(torch.randn(classes, size) / size**0.5)
        self.blocks = nn.ModuleList(DenoisingBlock(inputs, size, width, classes) for _ in range(blocks))
        self.head = nn.Linear(size, classes)
        # From an arbitrary start, a backward through the stack gives several classes one embedding, and stays there.
        self.head.weight.data.copy_(self.embedding)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Map ``[batch, ...]`` to logits ``[batch, classes]`` by inference; with z_0 ... z_T given, all logits.

        Parameters
        ----------
        x : Tensor, shape (n, ...)
        z : Tensor, shape (blocks + 1, n, embedding), optional
            What each block reads, and the head: the answers are then (those of the blocks, shape (blocks, n, classes),
            those of the head), and no block sees another's.
        """
        if z is None:
            return self.head(self.trajectory(x)[-1])
        x = x.flatten(1)
        return torch.stack([block(x, before) for block, before in zip(self.blocks, z)]), self.head(z[-1])

    def trajectory(self, x: Tensor) -> Tensor:
        """Return z_0 ... z_T of an inference, shape (blocks + 1, n, embedding)."""
        x = x.flatten(1)
        z = torch.randn(len(x), self.embedding.shape[1], dtype=x.dtype, device=x.device)
        found = [z]
        for block, (a, b, c) in zip(self.blocks, self.steps):
            guess = block(x, z).softmax(-1) @ self.embedding
            z = a * guess + b * z + c.sqrt() * torch.randn_like(z)
            found.append(z)
        return torch.stack(found)


class TinyGPT(nn.Module):
    """A pre-norm GPT with rotary positions, RMS norms without gain, squared ReLU, no biases and an untied head.

    Parameters
    ----------
    vocab : int
        Tokens; 256 for bytes.
    layers, width, heads : int
        Blocks, features of the stream, attention heads. ``width / heads`` must be even.
    context : int
        The longest sequence; any shorter one may come too, since only distances between positions matter.
    dropout : float
        Of attention weights and of what each half block adds.
    causal : bool
        Whether a position sees only those before it; an encoder sees all.
    qk_norm : bool
        Layer norm, with a gain and no offset, of the queries and keys of each head (`QKNorm` says more). Default off.

    Raises
    ------
    ValueError
        For sizes below 1, a width that does not divide into heads of even size, or a dropout outside [0, 1).

    Notes
    -----
    ``2 * vocab * width + 12 * layers * width**2`` parameters: ``embed.weight``, per block
    ``blocks.0.attention.qkv.weight``, ``blocks.0.attention.out.weight``, ``blocks.0.mlp.up.weight``,
    ``blocks.0.mlp.down.weight``, and ``head.weight``; with `qk_norm` ``blocks.0.attention.q_norm.weight`` and
    ``k_norm.weight``, which start at 1. Matrices start with variance ``1 / inputs``, the embedding
    with 0.01, and the matrices that write into the stream (``out``, ``down``) at zero, so a fresh network is a table
    of token pairs.

    What was chosen by measuring (val loss of ``code`` and ``prose`` after 250 AdamW steps of 16 x 64 bytes at the
    better of two rates, two or three seeds; seeds differ by 0.02): rotary positions instead of learned ones 0.28
    nats, starting ``out`` and ``down`` at zero instead of a tenth of the others' size 0.03, squared ReLU instead of
    GELU 0.02. Gains in the norms, LayerNorm and four heads instead of two made no difference.

    Second derivatives need ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``: the fused attention has only first
    ones.

    References
    ----------
    J. Su et al. (2021). RoFormer: enhanced transformer with rotary position embedding.
    https://arxiv.org/abs/2104.09864
    B. Zhang, R. Sennrich (2019). Root mean square layer normalization. https://arxiv.org/abs/1910.07467

    Examples
    --------
    >>> model = TinyGPT()
    >>> tokens = torch.randint(0, 256, (2, 48))
    >>> model(tokens).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 48, 256]), 131072)
    """

    rotation: Tensor

    def __init__(
        self,
        vocab: int = 256,
        layers: int = 2,
        width: int = 64,
        heads: int = 2,
        context: int = 64,
        dropout: float = 0.0,
        causal: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        _check_transformer(vocab=vocab, layers=layers, width=width, heads=heads, context=context, dropout=dropout)
        if width // heads % 2:
            raise ValueError(
                f"heads: got {heads!r}; allowed for width {width} are numbers for which width / heads is even."
            )
        self.context, self.causal = context, causal
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, qk_norm) for _ in range(layers))
        self.head = nn.Linear(width, vocab, bias=False)
        # Real pairs and not complex numbers: `model.to(dtype)` would drop the imaginary part of a complex buffer.
        self.register_buffer("rotation", rotation_table(context, width // heads), persistent=False)
        initialize(self)
        nn.init.normal_(self.embed.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens ``[batch, length]`` to logits ``[batch, length, vocab]``: of each next token, of an encoder each own."""
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"tokens: got length {length}; allowed is at most the context, {self.context}.")
        rotation = as_complex(self.rotation[:length])
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, rotation, self.causal)
        return self.head(rms_norm(x))

    @property
    def width(self) -> int:
        """Features of the stream."""
        return self.embed.embedding_dim

    def grown(self, width: int) -> TinyGPT:
        """Return a fresh network with more heads of the same size, and as many blocks as there are now.

        Raises
        ------
        ValueError
            If the width is not a whole number of heads.

        Examples
        --------
        >>> model = TinyGPT(width=32, heads=2).grown(48)
        >>> model.width, model.blocks[0].attention.heads
        (48, 3)
        """
        block: Any = self.blocks[0]
        size = self.width // block.attention.heads
        if width % size:
            raise ValueError(f"width: got {width!r}; allowed are multiples of {size}, the size of a head.")
        return type(self)(
            vocab=self.embed.num_embeddings,
            layers=len(self.blocks),
            width=width,
            heads=width // size,
            context=self.context,
            dropout=block.dropout,
            causal=self.causal,
            qk_norm=block.attention.qk_norm,
        )


def _check_transformer(*, width: int, heads: int, dropout: float = 0.0, **sizes: int) -> None:
    for name, value in {"width": width, "heads": heads, **sizes}.items():
        if type(value) is not int or value < 1:
            raise ValueError(f"{name}: got {value!r}; allowed is a whole number of at least 1.")
    if width % heads:
        raise ValueError(f"heads: got {heads!r}; allowed are divisors of the width, {width}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: got {dropout!r}; allowed is a number in [0, 1).")


class ModularTransformer(nn.Module):
    """A transformer that reads ``a b =`` and predicts ``a + b mod p`` at the last position.

    Parameters
    ----------
    p : int
        Modulus. There are ``p + 1`` tokens; the last is the equals sign.
    width, heads, layers : int
        As in `TinyGPT`; one layer is enough.

    Raises
    ------
    ValueError
        For sizes below 1 or a width that does not divide into heads.

    References
    ----------
    N. Nanda et al. (2023). Progress measures for grokking via mechanistic interpretability.
    https://arxiv.org/abs/2301.05217

    Examples
    --------
    >>> model = ModularTransformer(p=97)
    >>> model(torch.tensor([[1, 2], [96, 96]])).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 97]), 61824)
    """

    def __init__(self, p: int = 97, width: int = 64, heads: int = 4, layers: int = 1) -> None:
        super().__init__()
        _check_transformer(p=p, layers=layers, width=width, heads=heads)
        self.p = p
        self.embed = nn.Embedding(p + 1, width)
        self.position = nn.Parameter(torch.empty(3, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.head = nn.Linear(width, p, bias=False)
        initialize(self)

    def forward(self, pairs: Tensor) -> Tensor:
        """Map pairs ``[batch, 2]`` of numbers below ``p`` to logits ``[batch, p]``."""
        x = self.embed(F.pad(pairs, (0, 1), value=self.p)) + self.position
        for block in self.blocks:
            x = block(x, is_causal=False)
        return self.head(rms_norm(x[:, -1]))


class ModularMLP(nn.Module):
    """``W (u_a + v_b)^2``: a quadratic two-layer network, which can add modulo ``p`` and is known to grok.

    Parameters
    ----------
    p : int
        Modulus.
    width : int
        Hidden units.

    Raises
    ------
    ValueError
        For a size below 1.

    References
    ----------
    A. Gromov (2023). Grokking modular arithmetic. https://arxiv.org/abs/2301.02679

    Examples
    --------
    >>> model = ModularMLP(p=97)
    >>> model(torch.tensor([[1, 2], [96, 96]])).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 97]), 37248)
    """

    def __init__(self, p: int = 97, width: int = 128) -> None:
        super().__init__()
        _check_transformer(p=p, width=width, heads=1)
        self.first = nn.Embedding(p, width)
        self.second = nn.Embedding(p, width)
        self.head = nn.Linear(width, p, bias=False)
        initialize(self)

    def forward(self, pairs: Tensor) -> Tensor:
        """Map pairs ``[batch, 2]`` of numbers below ``p`` to logits ``[batch, p]``."""
        a, b = pairs.unbind(1)
        return self.head((self.first(a) + self.second(b)).square())
