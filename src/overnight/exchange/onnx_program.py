"""The programs of ``overnight.exchange.program`` as ONNX, checked with ONNX Runtime."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.exchange.check import accept, difference, of_step
from overnight.exchange.program import INPUTS, OUTPUTS, Step, Window, example
from overnight.models.byte_lm import ByteLM


def write_onnx(model: ByteLM, folder: Path) -> dict[str, float]:
    """Write ``step.onnx`` and ``window.onnx``, and run them with ONNX Runtime.

    Returns:
        The largest difference to the original, by file.

    Raises:
        UserError: if a library is missing, torch cannot convert the model, or a file does not compute what the model
            does.
    """
    runtime = required_libraries()
    differences = {}
    for name, window in (("step.onnx", False), ("window.onnx", True)):
        inputs, varies = example(model, window)
        program = (Window if window else Step)(model).eval()
        with _quietly():
            try:
                converted = torch.onnx.export(
                    program,
                    inputs,
                    dynamo=True,
                    input_names=list(INPUTS),
                    output_names=list(OUTPUTS),
                    dynamic_shapes=varies,
                    verbose=False,
                )
            # what a version of torch or onnxscript cannot convert ends in whatever it met
            except Exception as error:
                raise UserError(
                    f"torch {torch.__version__} cannot convert the model to ONNX "
                    f"({type(error).__name__}; --debug shows all of it).",
                    "Use torch 2.13 and the versions of constraints.txt, or --to torch.",
                ) from error
            assert converted is not None
            converted.save(folder / name)
        run = _Session(runtime, folder / name)
        differences[name] = accept(name, difference(model, run if window else of_step(run)))
    return differences


def required_libraries() -> Any:
    """onnxruntime, where it and what the conversion needs are installed.

    Raises:
        UserError: if one is not.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            raise UserError(f"ONNX needs {name}.", "Install it with: pip install 'overnight[export]'") from error
    return found


class _Session:
    """An ONNX file that is called as the program was."""

    def __init__(self, runtime: Any, file: Path) -> None:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        logits, h, c = map(torch.from_numpy, self._session.run(list(OUTPUTS), feed))
        return logits, h, c


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the converter's remarks about libraries that it would also know, and about itself."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
