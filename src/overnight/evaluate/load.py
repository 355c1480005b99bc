"""A trained byte model, ready to be used."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate import extraction, traces
from overnight.evaluate.extraction import Pool, Text
from overnight.models.byte_lm import ByteLM


@dataclass(frozen=True)
class ByteModel:
    """A model on ``device``, in evaluation mode, without gradients; and where it comes from.

    Attributes:
        run: the content of run.json.
        step: of the checkpoint.
        corpus: the folder it was trained on, if the run says so.
    """

    model: ByteLM
    device: torch.device
    run: dict[str, Any]
    step: int
    corpus: Path | None

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights (names, dtypes, shapes and bytes, by name), in hexadecimal: their identity."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    def features(
        self,
        texts: Iterable[Text],
        *,
        layer: int = -1,
        pool: Pool = "last",
        tanh: bool = False,
        cache: str | Path | None = None,
        lanes: int = 128,
        precision: str = "auto",
    ) -> NDArray[np.float32]:
        """The cell state of every text, float32 [N, H]; each is read framed and from a zero state."""
        rows = list(
            extraction.extract(
                self.model, texts, layer=layer, pool=pool, tanh=tanh, lanes=lanes, dtype=self._dtype(precision)
            )
        )
        return np.stack(rows) if rows else np.empty((0, self.model.hidden_size), dtype=np.float32)

    def states(self, text: Text, *, layer: int = -1) -> NDArray[np.float32]:
        """The cell state after every byte of the framed text, float32 [bytes, H]."""
        return traces.states(self.model, text, layer=layer)

    def trace(self, text: Text, unit: int, *, layer: int = -1) -> traces.Trace:
        """A unit's cell state after every byte of the framed text."""
        return traces.trace(self.model, text, unit, layer=layer)

    def score(self, texts: Iterable[Text], *, lanes: int = 64, precision: str = "fp32") -> NDArray[np.float64]:
        """Bits of every text, float64 [N]: over the framed text's bytes but the first, a line feed."""
        found = extraction.score(self.model, texts, lanes=lanes, dtype=self._dtype(precision))
        return np.fromiter(found, dtype=np.float64)

    def generate(
        self,
        prompt: Text = "",
        length: int = 1000,
        *,
        fix_units: Mapping[int, float] | None = None,
        layer: int = -1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[str]:
        """Text after ``prompt``, piece by piece as it becomes known; ``length`` bytes in all."""
        from overnight.evaluate.generate import generate, text

        steps = generate(
            self.model,
            [prompt.encode("utf-8", "surrogateescape") if isinstance(prompt, str) else bytes(prompt)],
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            fix_units=fix_units,
            layer=layer,
        )
        return (piece for piece in text(step[0] for step in steps) if piece)

    def _dtype(self, precision: str) -> torch.dtype | None:
        from overnight.train.precision import choose_precision

        return choose_precision(self.device, precision).dtype


def load_byte_model(run: str | Path, which: str = "best", device: str = "auto") -> ByteModel:
    """Load a checkpoint of a run folder for inference; also ``overnight.load``.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or a step.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        UserError: if the folder is no run, has no such checkpoint, the checkpoint is damaged or of another
            architecture, the model reads no bytes, or the device is not there.
    """
    from overnight.train.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    loaded = load_model(Path(run), which)
    if not isinstance(loaded.model, ByteLM):
        raise UserError(
            f"{run} holds a {type(loaded.model).__name__}, not a byte language model.",
            "Give a run of a byte language model.",
        )
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model = loaded.model.to(chosen).eval().requires_grad_(False)
    return ByteModel(model, chosen, loaded.run, loaded.step, loaded.corpus)
