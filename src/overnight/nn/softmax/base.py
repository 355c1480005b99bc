"""What every output layer is: a weight, a bias, a training loss, and the exact softmax beside it."""

import math

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.rows import check_ids, whole_number
from overnight.nn.softmax.chunked import LOGITS, chunked_cross_entropy, product_dtype


class Output(nn.Module):
    """An output layer: summed losses in nats of the next words. Subclasses implement ``loss``, ``exact``, ``log_prob``.

    Args:
        hidden_size: D.
        vocab_size: V.

    Raises:
        UserError: for sizes below 1; when called, for h of another width, targets that do not match it and, on the
            CPU, targets outside 0…V-1 (a GPU stops the program at the next synchronisation, as an embedding does).
    """

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        for name, size in (("hidden_size", hidden_size), ("vocab_size", vocab_size)):
            whole_number(name, size)
        self.hidden_size, self.vocab_size = hidden_size, vocab_size

    def forward(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed loss: what is trained in training mode, the exact one in evaluation mode.

        Args:
            h: [N, D], or [T, B, D].
            targets: ids of the next words, [N] or [T, B].
        """
        if not self.training:
            return self.exact(h, targets)
        self._check(h, targets)
        return self.loss(h, targets)

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed loss that is trained; ``forward`` has checked the arguments."""
        raise NotImplementedError

    def exact(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed exact negative log-likelihood in nats.

        Args:
            h: [N, D], or [T, B, D].
            targets: [N] or [T, B].
        """
        raise NotImplementedError

    def log_prob(self, h: Tensor) -> Tensor:
        """Log-probabilities of all words, [N, D] → [N, V]: for few tokens, as when generating."""
        raise NotImplementedError

    def nats(self, h: Tensor, targets: Tensor) -> Tensor:
        """The exact negative log-likelihood of each target, [N, D] and [N] → [N], a chunk of tokens at a time."""
        size = max(1, LOGITS // self.vocab_size)
        parts = zip(h.split(size), targets.split(size), strict=True)
        return torch.cat([-self.log_prob(h_CD).gather(1, targets_C[:, None])[:, 0] for h_CD, targets_C in parts])

    def _check(self, h: Tensor, targets: Tensor | None) -> None:
        if h.ndim < 2 or h.shape[-1] != self.hidden_size:
            raise UserError(
                f"h has shape {list(h.shape)}, the output layer takes rows of {self.hidden_size}.",
                "Give h as [N, hidden_size].",
            )
        if targets is None:
            return
        if h.shape[:-1] != targets.shape:
            raise UserError(
                f"h has shape {list(h.shape)}, the targets {list(targets.shape)}.", "Give one target for each row of h."
            )
        check_ids(targets, self.vocab_size, "target")

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{self.hidden_size}, {self.vocab_size}"


class LinearOutput(Output):
    """An output layer whose exact softmax is that of W h + b.

    Args:
        hidden_size: D.
        vocab_size: V.
        bias: whether there is one; it starts at zero.
        weight: a parameter [V, D] to share, such as an embedding's (tied); None makes one, U(±1/√D).
        chunk: tokens whose logits over all V words exist at once; None takes as many as fit 2²⁶ logits.

    Attributes:
        weight: [V, D].
        bias: [V] or None.

    Raises:
        UserError: as ``Output``; for a chunk below 1 or a tied weight of another shape.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        bias: bool = True,
        weight: nn.Parameter | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__(hidden_size, vocab_size)
        if chunk is not None:
            whole_number("chunk", chunk)
        if weight is not None and tuple(weight.shape) != (vocab_size, hidden_size):
            raise UserError(
                f"The tied weight has shape {list(weight.shape)}, the output needs [{vocab_size}, {hidden_size}].",
                "Tie layers of the same vocabulary and width; a projection can bring h to the embedding's width.",
            )
        self.chunk = chunk
        if weight is None:
            bound = 1.0 / math.sqrt(hidden_size)
            weight = nn.Parameter(torch.empty(vocab_size, hidden_size).uniform_(-bound, bound))
        self.weight = weight
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def exact(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed exact negative log-likelihood in nats; it has gradients where they are asked for.

        Args:
            h: [N, D], or [T, B, D].
            targets: [N] or [T, B].
        """
        self._check(h, targets)
        return chunked_cross_entropy(h.flatten(0, -2), self.weight, self.bias, targets.flatten(), self.chunk)

    def log_prob(self, h: Tensor) -> Tensor:
        """Log-probabilities of all words, [N, D] → [N, V] in float32 or wider: for few tokens, as when generating."""
        self._check(h, None)
        dtype = product_dtype(self.weight)
        with torch.autocast(h.device.type, enabled=False):
            logits = (h.to(dtype) @ self.weight.to(dtype).T).to(torch.promote_types(dtype, torch.float32))
            return torch.log_softmax(logits if self.bias is None else logits + self.bias, -1)

    def nats(self, h: Tensor, targets: Tensor) -> Tensor:
        """The exact negative log-likelihood of each target, [N, D] and [N] → [N] in float32 or wider."""
        self._check(h, targets)
        dtype = product_dtype(self.weight)
        wide, size = torch.promote_types(dtype, torch.float32), self.chunk or max(1, LOGITS // self.vocab_size)
        nats = []
        with torch.autocast(h.device.type, enabled=False):
            weight = self.weight.to(dtype)  # once: of a large vocabulary the cast costs more than a few words' product
            for h_CD, targets_C in zip(h.split(size), targets.split(size), strict=True):
                logits_CV = (h_CD.to(dtype) @ weight.T).to(wide)
                if self.bias is not None:
                    logits_CV = logits_CV + self.bias
                nats.append(logits_CV.logsumexp(1) - logits_CV.gather(1, targets_C[:, None])[:, 0])
        return torch.cat(nats)

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"
