"""A trained byte model, ready to be used."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate import extraction, traces
from overnight.evaluate.extraction import Pool
from overnight.evaluate.feature_cache import FeatureCache
from overnight.evaluate.feature_files import write_features
from overnight.evaluate.framing import frame, to_bytes
from overnight.evaluate.texts import Text, framed_blocks
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_reader import ByteReader


@dataclass(frozen=True)
class ByteModel:
    """A model on ``device``, in evaluation mode, without gradients; and where it comes from.

    Texts are strings or bytes, any of them: empty, with NULs, not UTF-8. Every one is read by itself, from a zero
    state, framed as ``overnight.evaluate.framing.frame`` has it. ``precision`` is the number format of the products:
    ``fp32``, ``bf16``, ``fp16``, or ``auto``, the one that training would choose on this device.

    Attributes:
        run: the content of run.json.
        step: of the checkpoint.
        corpus: the folder it was trained on, if the run says so.

    Example:
        >>> m = ByteModel(ByteLM(hidden_size=32).eval(), torch.device("cpu"), {}, 0, None)
        >>> m.features(["a fine film", b"a dull one"]).shape, m.score(["a fine film"]).shape
        ((2, 32), (1,))
        >>> m.trace("fine", unit=7).bytes
        b'\\n fine '
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
        """The cell state c of every text, float32 [N, H] (Radford et al. 2017).

        Args:
            texts: N of them.
            layer: whose cell state, counted from the bottom, or from the top where negative.
            pool: the state after the ``last`` byte, or the ``mean`` or ``max`` over the states after every byte.
            tanh: give tanh c in the place of c: bounded, as the paper (not its code) has it.
            cache: a folder that keeps what was computed, by the content of texts, model and options.
            lanes: texts read at once; does not change the result by more than rounding does.
            precision: of the products.

        Raises:
            UserError: for a layer that is not there, a setting out of its range, or something that is no text.
        """
        blocks = self.feature_blocks(
            texts, layer=layer, pool=pool, tanh=tanh, cache=cache, lanes=lanes, precision=precision
        )
        if not isinstance(texts, Sized):
            return np.concatenate([np.empty((0, self.model.hidden_size), np.float32), *blocks])
        found = np.empty((len(texts), self.model.hidden_size), dtype=np.float32)
        at = 0
        for block in blocks:
            found[at : at + len(block)] = block
            at += len(block)
        return found

    def feature_blocks(
        self,
        texts: Iterable[Text],
        *,
        layer: int = -1,
        pool: Pool = "last",
        tanh: bool = False,
        cache: str | Path | None = None,
        lanes: int = 128,
        precision: str = "auto",
    ) -> Iterator[NDArray[np.float32]]:
        """``features`` a few thousand texts at a time, [n, H] each in the order of the texts: constant memory.

        Texts are taken as they are needed, so ``texts`` may be a generator over millions.
        """
        index = extraction.layer_index(self.model, layer)
        extraction.check_pool(pool)
        if lanes < 1:
            raise UserError(f"lanes={lanes} reads nothing.", "lanes must be at least 1.")
        dtype = self._dtype(precision)
        identity = {"model": self.digest, "layer": index, "pool": pool, "dtype": str(dtype)} if cache else {}
        kept = FeatureCache(Path(cache), identity) if cache else None

        def rows(framed: list[bytes]) -> NDArray[np.float32]:
            return np.stack(
                list(extraction.cell_states(self._reader(dtype, index + 1), framed, pool=pool, lanes=lanes))
            )

        def blocks() -> Iterator[NDArray[np.float32]]:
            for framed in framed_blocks(texts):
                found = rows(framed) if kept is None else kept.get(framed, lambda now=framed: rows(now))  # type: ignore[misc]
                yield np.tanh(found) if tanh else found

        return blocks()

    def save_features(
        self,
        texts: Iterable[Text],
        out: str | Path,
        *,
        layer: int = -1,
        pool: Pool = "last",
        tanh: bool = False,
        cache: str | Path | None = None,
        lanes: int = 128,
        precision: str = "auto",
    ) -> int:
        """``features`` into a ``.npy`` or ``.parquet`` file, in constant memory; gives the number of texts.

        The file is written aside and renamed: it is whole or absent. ``np.load(out, mmap_mode="r")`` reads a ``.npy``
        without loading it; a ``.parquet`` has one column, ``features``, and says in its metadata what it holds.

        Raises:
            UserError: as ``features`` does, or if ``out`` has another ending or cannot be written.
        """
        blocks = self.feature_blocks(
            texts, layer=layer, pool=pool, tanh=tanh, cache=cache, lanes=lanes, precision=precision
        )
        index = extraction.layer_index(self.model, layer)
        about = {"model_digest": self.digest, "layer": str(index), "pool": pool, "tanh": str(tanh).lower()}
        return write_features(Path(out), blocks, self.model.hidden_size, about)

    def states(self, text: Text, *, layer: int = -1, precision: str = "fp32") -> NDArray[np.float32]:
        """The cell state after every byte of the framed text, float32 [bytes, H].

        Raises:
            UserError: for a layer that is not there.
        """
        index = extraction.layer_index(self.model, layer)
        return traces.states(self._reader(self._dtype(precision), index + 1), frame(text))

    def trace(self, text: Text, unit: int, *, layer: int = -1, precision: str = "fp32") -> traces.Trace:
        """A unit's cell state after every byte of the framed text.

        Raises:
            UserError: for a unit or layer that is not there.
        """
        index, unit = extraction.layer_index(self.model, layer), extraction.unit_index(self.model, unit)
        return traces.trace(self._reader(self._dtype(precision), index + 1), frame(text), unit)

    def score(self, texts: Iterable[Text], *, lanes: int = 64, precision: str = "fp32") -> NDArray[np.float64]:
        """Bits of every text, float64 [N]: Σ -log₂ p(byte | the bytes before it) over its framed bytes but the first.

        That first one is a line feed that every text begins with, and has nothing before it. So the bits per byte of a
        text are ``score / (len(frame(text)) - 1)``.

        Raises:
            UserError: for a setting out of its range, or something that is no text.
        """
        if lanes < 1:
            raise UserError(f"lanes={lanes} reads nothing.", "lanes must be at least 1.")
        reader = self._reader(self._dtype(precision), None)
        blocks = (extraction.bits(self.model, reader, framed, lanes=lanes) for framed in framed_blocks(texts))
        return np.fromiter(chain.from_iterable(blocks), dtype=np.float64)

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
        """Text after ``prompt`` (which is not framed), piece by piece as it becomes known; ``length`` bytes in all.

        Args:
            prompt: what to continue; an empty one starts a new line.
            length: bytes to generate.
            fix_units: unit → the value that its cell state is set to at every step (see ``evaluate.generate``).
            layer: whose units.
            temperature, top_k, top_p, seed: of the draws (see the same).

        Raises:
            UserError: for a unit that is not there or a setting out of its range.
        """
        from overnight.evaluate.generate import generate, text

        steps = generate(
            self.model,
            [to_bytes(prompt)],
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            fix_units=fix_units,
            layer=layer,
        )
        return (piece for piece in text(step[0] for step in steps) if piece)

    @cached_property
    def _readers(self) -> dict[tuple[torch.dtype | None, int | None], ByteReader]:
        return {}

    def _reader(self, dtype: torch.dtype | None, layers: int | None) -> ByteReader:
        layers = len(self.model.layers) if layers is None else layers
        if (dtype, layers) not in self._readers:
            self._readers[dtype, layers] = ByteReader(self.model, dtype, layers=layers)
        return self._readers[dtype, layers]

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
