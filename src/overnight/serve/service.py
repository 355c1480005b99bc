"""What each request asks of the model and what its answer says; nothing of HTTP.

A request here is checked already: a mapping with every field of its schema in ``requests``.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import overnight
from overnight.errors import UserError
from overnight.evaluate.framing import frame
from overnight.evaluate.generate import Sampler
from overnight.evaluate.load import ByteModel
from overnight.serve.classifiers import Reader, find_classifiers
from overnight.serve.curves import curves_of
from overnight.serve.lanes import Batch, Lane
from overnight.serve.limits import Limits
from overnight.serve.pace import fitted, step_seconds
from overnight.serve.readings import History, Kept, Reading
from overnight.serve.refusal import RefusalError
from overnight.serve.writings import Writing

Request = Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """Lanes, and the answer once all of them are done."""

    lanes: Sequence[Callable[[], Lane]]
    answer: Callable[[], dict[str, Any]]
    held_bytes: int = 0


class Service:
    """A model, what is kept of its readings, and its run folder.

    Args:
        model: loaded.
        run: its run folder.
        limits: of the server; lowered to what the model can do here in the time of a request.
    """

    def __init__(self, model: ByteModel, run: Path, limits: Limits) -> None:
        self.model, self.run = model, run
        self.limits = fitted(limits, step_seconds(model.model, 1), step_seconds(model.model, limits.lanes))
        self.batch = Batch(model.model)
        self.classifiers, self.problems = find_classifiers(run, model)
        self._kept = Kept(limits.history_bytes)
        self._shapes = self.batch.shapes

    @property
    def layers(self) -> int:
        """Of the model."""
        return len(self._shapes)

    @property
    def units(self) -> int:
        """Of each layer."""
        return self.model.model.hidden_size

    def score(self, request: Request) -> Work:
        """Bits of each text."""
        readings = [Reading(frame(text)) for text in self._texts(request)]
        return Work([partial(_same, one) for one in readings], lambda: {"scores": [_score(one) for one in readings]})

    def features(self, request: Request) -> Work:
        """The cell state of each text."""
        layer = request["layer"] % self.layers
        readings = [Reading(frame(text), layer, request["pool"]) for text in self._texts(request)]

        def answer() -> dict[str, Any]:
            features = np.stack([one.feature for one in readings if one.feature is not None])
            return {"features": np.tanh(features) if request["tanh"] else features}

        return Work([partial(_same, one) for one in readings], answer)

    def classify(self, request: Request) -> Work:
        """The classes of each text."""
        reader = self._classifier(request["classifier"])
        readings = [Reading(frame(text), reader.layer % self.layers, reader.pool) for text in self._texts(request)]

        def answer() -> dict[str, Any]:
            features = np.stack([one.feature for one in readings if one.feature is not None])
            return {"classifier": reader.name, "results": reader.results(features)}

        return Work([partial(_same, one) for one in readings], answer)

    def trace(self, request: Request) -> Work:
        """What a text does to the units, byte by byte."""
        text = frame(request["text"])
        reader = None if request["classifier"] is None else self._classifier(request["classifier"])
        made: list[History] = []

        def make() -> Lane:
            known = self._kept.nearest(text)
            made.append(History(text, self._shapes, self.model.device, known))
            return made[0]

        def answer() -> dict[str, Any]:
            history = made[0]
            self._kept.keep(history)
            return self._traced(history, request, reader)

        per_byte = 4 * sum(h + c for h, c in self._shapes)
        return Work([make], answer, held_bytes=per_byte * len(text))

    def generate(self, request: Request, emit: Callable[[int, float | None], None]) -> tuple[Work, dict[str, Any]]:
        """The lane that writes a text, and the settings that it is written with.

        Raises:
            RefusalError: 422 for a setting that generation does not take, or a unit held at two values.
        """
        seed = secrets.randbelow(1 << 31) if request["seed"] is None else request["seed"]
        layer = request["layer"] % self.layers
        fixed: dict[int, float] = {}
        for index, entry in enumerate(request["fix_units"]):
            if entry["unit"] in fixed:
                problem = f"fix_units[{index}] names unit {entry['unit']} twice."
                raise RefusalError(422, "field", problem, "Give it one value.")
            fixed[entry["unit"]] = entry["value"]
        try:
            draw = Sampler(self.model.device, request["temperature"], request["top_k"], request["top_p"], seed)
        except UserError as error:
            raise RefusalError(422, "field", error.problem, error.remedy) from error
        prompt = request["prompt"].encode("utf-8")
        lane = Writing(prompt, request["length"], draw, emit, fixed, layer, request["unit"])
        settings = {name: request[name] for name in ("length", "temperature", "top_k", "top_p", "unit", "layer")}
        settings |= {"seed": seed, "fix_units": [{"unit": unit, "value": value} for unit, value in fixed.items()]}
        return Work([partial(_same, lane)], lambda: settings), settings

    def about(self) -> dict[str, Any]:
        """What is served."""
        return {
            "overnight": overnight.__version__,
            "name": self.run.resolve().name,
            "digest": self.model.digest,
            "step": self.model.step,
            "recipe": str(self.model.run.get("recipe", "")),
            "parameters": sum(parameter.numel() for parameter in self.model.model.parameters()),
            "units": self.units,
            "layers": self.layers,
            "device": str(self.model.device),
            "classifiers": [reader.about() for reader in self.classifiers.values()],
            "problems": self.problems,
            "limits": {
                name: getattr(self.limits, name)
                for name in (
                    "seconds",
                    "texts",
                    "text_chars",
                    "total_chars",
                    "trace_chars",
                    "prompt_chars",
                    "generate_bytes",
                )
            },
        }

    def curves(self) -> dict[str, Any]:
        """The training curves of the run.

        Raises:
            RefusalError: 404 if the run folder cannot be read any more.
        """
        try:
            return curves_of(self.run)
        except UserError as error:
            raise RefusalError(404, "curves", error.problem, error.remedy) from error

    def _traced(self, history: History, request: Request, reader: Reader | None) -> dict[str, Any]:
        c_TH = history.c[request["layer"] % self.layers]
        spread_H = np.tanh(c_TH).std(axis=0)
        top = np.argsort(-spread_H, kind="stable")[: request["top"]]
        answer = _score(history) | {
            "layer": request["layer"] % self.layers,
            "text": list(history.text),
            "bits_of_bytes": history.bits,
            "units": [{"unit": unit, "values": np.ascontiguousarray(c_TH[:, unit])} for unit in request["units"]],
            "top": [{"unit": int(h), "last": float(c_TH[-1, h]), "spread": float(spread_H[h])} for h in top],
            "classes": None,
        }
        if reader is not None:
            c_TH = history.c[reader.layer % self.layers]
            feature = {"mean": c_TH.mean(0), "max": c_TH.max(0)}.get(reader.pool, c_TH[-1])
            answer["classes"] = reader.results(feature[None])[0]
        return answer

    def _texts(self, request: Request) -> list[str]:
        texts: list[str] = request["texts"]
        found, most = sum(map(len, texts)), self.limits.total_chars
        if found > most:
            raise RefusalError(
                413,
                "too_large",
                f"The texts have {found:,} characters together; {most:,} is the most.",
                "Send them in several requests.",
            )
        return texts

    def _classifier(self, name: str | None) -> Reader:
        if not self.classifiers:
            raise RefusalError(
                404,
                "classifier",
                "This run has no classifier.",
                "Train one with: overnight classify train, and restart.",
            )
        if name is None:
            return next(iter(self.classifiers.values()))
        if name not in self.classifiers:
            raise RefusalError(
                404, "classifier", f"There is no classifier {name!r}.", f"There is: {', '.join(self.classifiers)}."
            )
        return self.classifiers[name]


def _same(lane: Lane) -> Lane:
    return lane


def _score(reading: Reading | History) -> dict[str, Any]:
    """Bits over the framed text but its first line feed."""
    bits: NDArray[np.float64] = reading.bits
    total = float(bits.sum())
    return {"bits": total, "bytes": len(bits) - 1, "bits_per_byte": total / (len(bits) - 1)}
