"""Which optional libraries are installed, what each is for, and the extra that brings it."""

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

# (distribution, extra, what it is for): all that the package imports beyond its requirements, which a test checks.
OPTIONAL = (
    ("jinja2", "report", "the report's page"),
    ("matplotlib", "report", "heat maps as PNG (overnight trace --png)"),
    ("onnx", "export", "overnight export --to onnx"),
    ("onnxruntime", "export", "overnight export --to onnx"),
    ("onnxscript", "export", "overnight export --to onnx"),
    ("pillow", "images", "image files (overnight train resnet, alexnet)"),
    ("sacrebleu", "text", "BLEU of translations"),
    ("scikit-learn", "eval", "overnight classify, ByteFeatures"),
    ("starlette", "serve", "overnight serve"),
    ("tensorboard", "track", "TensorBoard logs (--tensorboard)"),
    ("tokenizers", "text", "byte pairs (prepare --pairs --bpe), word pieces (prepare --bert)"),
    ("transformers", "bert", "BERT"),
    ("triton", "gpu", "fused kernels on CUDA"),
    ("uvicorn", "serve", "overnight serve"),
    ("zstandard", "zstd", "reading .zst files"),
)


@dataclass(frozen=True)
class Library:
    """An optional library: ``version`` is None when it is missing, ``extra`` is what brings it."""

    name: str
    extra: str
    purpose: str
    version: str | None


def examine_libraries() -> tuple[Library, ...]:
    """Every optional library that this Python has a use for."""
    return tuple(
        Library(name, extra, purpose, installed_version(name)) for name, extra, purpose in OPTIONAL if _applies(name)
    )


def installed_version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _applies(name: str) -> bool:
    # Python 3.14 reads Zstandard by itself.
    if name == "triton":
        return sys.platform == "linux"
    return name != "zstandard" or sys.version_info < (3, 14)
