"""Word language models with LSTMs of any gate map: Zaremba et al. 2014, BIGLSTM, F-LSTM and G-LSTM.

Embedding → L recurrent layers, with projection or without → a softmax over the vocabulary; dropout on what goes up,
never on what goes from step to step (Zaremba et al. 2014, arXiv 1409.2329).

Shape suffixes: T time, B lanes, E embedding width, H units, N width of h (H, or the projection's), L layers, V words.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.word_model import Carry, WordModel, output_layer
from overnight.nn.gates import DenseGates, FactorizedGates, GateMap, GroupedGates
from overnight.nn.recurrence import Path
from overnight.nn.rows import SampledEmbedding
from overnight.nn.stack import RecurrentStack


class WordLM(WordModel):
    """Words in, a distribution over the next word out; the recurrent state is carried by the caller.

    With the sizes of Zaremba et al. it has 4,651,600 (2 × 200), 19,775,200 (2 × 650) or 66,022,000 (2 × 1500)
    parameters, with one bias a gate; BIGLSTM (``hidden_size=8192, projection=1024``) has 151,060,480 in its recurrence.

    Args:
        vocab_size: V.
        embedding_size: E.
        hidden_size: H.
        layers: L.
        gates: ``dense``, ``factorized:R`` (F-LSTM of rank R) or ``grouped:K`` (G-LSTM of K groups).
        projection: N; None projects nothing.
        dropout: probability with which an element of the embedding, of what a layer hands to the next, and of what the
            output layer reads is zeroed in training.
        output: ``full``, ``sampled:N``, ``nce:N`` or ``adaptive:C1,C2,…`` (see ``models.word_model.output_layer``).
        tied: the embedding is the output layer's weight too; N must be E.
        forget_bias: start of the forget gates' bias.
        init: of recurrent weights (see ``overnight.nn.init``).
        init_range: every parameter, biases too, starts in U(-a, a) instead, as in Zaremba et al.; with
            ``svd`` the dense maps do.
        factor_init: of factorized gates: ``independent`` or ``svd``, spectral initialisation.
        sparse: gradients of the embedding and of a sampled output hold the rows of the step only; the optimizer must
            take such (``torch.optim.SGD``, ``torch.optim.Adagrad``, ``overnight.optim``'s row optimizers).
        embedding_gradient_scale: the embedding's gradient is multiplied by this; 1 but for the recipe of f-lm.
        sampler, counts, certain, per_step, seed: of a sampled output.
        path, chunk: see ``overnight.nn.recurrence.Recurrent``.

    Raises:
        UserError: if a size is less than 1, a rank or number of groups does not fit the sizes, or a name is not known.

    Example:
        >>> model = WordLM(100, 8, 16, projection=8, gates="grouped:2")
        >>> log_p, carry = model(torch.zeros(5, 3, dtype=torch.long))
        >>> log_p.shape, carry["h"].shape, carry["c"].shape
        (torch.Size([5, 3, 100]), torch.Size([3, 2, 8]), torch.Size([3, 2, 16]))
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        layers: int = 2,
        *,
        gates: str = "dense",
        projection: int | None = None,
        dropout: float = 0.0,
        output: str = "full",
        tied: bool = False,
        forget_bias: float = 0.0,
        init: str = "uniform",
        init_range: float | None = None,
        factor_init: str = "independent",
        sparse: bool = False,
        embedding_gradient_scale: float = 1.0,
        sampler: str = "log-uniform",
        counts: str | None = None,
        certain: str = "batch",
        per_step: bool = False,
        seed: int = 0,
        path: Path = "auto",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise UserError(f"A word model cannot have layers={layers}.", "layers must be at least 1.")
        self.hidden_size, self.output_size = hidden_size, hidden_size if projection is None else projection
        self.dropout, self.embedding_gradient_scale = dropout, embedding_gradient_scale
        self.embedding = SampledEmbedding(vocab_size, embedding_size, sparse=sparse)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        widths = [embedding_size] + [self.output_size] * (layers - 1)
        options: dict[str, Any] = {"init": init, "forget_bias": forget_bias}
        maps = [gate_map(gates, width, hidden_size, projection, factor_init=factor_init, **options) for width in widths]
        self.recurrent = RecurrentStack(maps, dropout=dropout, path=path, chunk=chunk)
        self.output = output_layer(
            output,
            self.output_size,
            vocab_size,
            weight=self.embedding.weight if tied else None,
            sampler=sampler,
            counts=counts,
            certain=certain,
            per_step=per_step,
            seed=seed,
            sparse=sparse,
        )
        if init_range is not None:
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -init_range, init_range)
            for gate in maps:
                if factor_init == "svd" and isinstance(gate, FactorizedGates):
                    columns = gate.input_size + gate.output_size
                    gate.set_product(torch.empty(4 * hidden_size, columns).uniform_(-init_range, init_range))

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """The zero state: ``h`` [B, L, N] and ``c`` [B, L, H], float32."""
        count, device = len(self.recurrent.layers), self.embedding.weight.device
        sizes = {"h": self.output_size, "c": self.hidden_size}
        return {name: torch.zeros(lanes, count, size, device=device) for name, size in sizes.items()}

    def hidden(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Words → the top layer's h [T, B, N], with the output's dropout, and the new carry.

        Args:
            ids_TB: word ids.
            carry: state after the words before these; None means zeros.
            reset_TB: True where the state is zeroed before reading that word.
        """
        if carry is None:
            carry = self.initial_carry(ids_TB.shape[1])
        x_TBE = self.embedding(ids_TB)
        if self.embedding_gradient_scale != 1.0:
            x_TBE = _ScaledGradient.apply(x_TBE, self.embedding_gradient_scale)  # type: ignore[no-untyped-call]
        x_TBE = F.dropout(x_TBE, self.dropout, self.training)
        state = list(zip(carry["h"].unbind(1), carry["c"].unbind(1), strict=True))
        h_TBN, last = self.recurrent(x_TBE, state, reset_TB)
        h_TBN = F.dropout(h_TBN, self.dropout, self.training)
        return h_TBN, {
            "h": torch.stack([h_BN.float() for h_BN, _ in last], 1),
            "c": torch.stack([c_BH for _, c_BH in last], 1),
        }


def gate_map(
    spec: str,
    input_size: int,
    hidden_size: int,
    output_size: int | None = None,
    *,
    factor_init: str = "independent",
    **options: Any,
) -> GateMap:
    """A gate map by name: ``dense``, ``factorized:R`` or ``grouped:K``.

    Raises:
        UserError: for another name, or a rank or number of groups that does not fit the sizes.

    >>> gate_map("grouped:4", 16, 32, 16).groups
    4
    """
    kind, _, text = spec.partition(":")
    number = int(text) if text.isdigit() else None
    if kind == "factorized" and number is not None:
        return FactorizedGates(input_size, hidden_size, output_size, rank=number, factor_init=factor_init, **options)
    if kind == "grouped" and number is not None:
        return GroupedGates(input_size, hidden_size, output_size, groups=number, **options)
    if spec != "dense":
        raise UserError(f"{spec!r} is not a gate map.", "Write dense, factorized:RANK or grouped:GROUPS.")
    return DenseGates(input_size, hidden_size, output_size, **options)


def clip_recurrent_only(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of which only the recurrent layers' gradients are clipped, as in f-lm and its forerunner."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inside = [p for name, p in named if name.startswith("recurrent.")]
    outside = [p for name, p in named if not name.startswith("recurrent.")]
    return [{"params": inside, "clip": True}, {"params": outside, "clip": False}]


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None
