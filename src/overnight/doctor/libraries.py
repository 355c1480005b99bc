"""Which optional libraries are installed, what each is for, and the extra that brings it."""

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

# (distribution, extra, what it is for). A test holds this equal to pyproject.toml.
OPTIONAL = (
    ("matplotlib", "report", "curves in reports"),
    ("jinja2", "report", "the report's page"),
    ("tokenizers", "text", "subword vocabularies"),
    ("sacrebleu", "text", "BLEU"),
    ("scikit-learn", "eval", "classifiers on features"),
    ("starlette", "serve", "the playground page"),
    ("uvicorn", "serve", "the playground page"),
    ("tensorboard", "track", "TensorBoard logs"),
    ("zstandard", "zstd", "reading .zst files"),
    ("triton", "gpu", "GPU kernels"),
)


@dataclass(frozen=True)
class Library:
    """An optional library: ``version`` is None when it is missing, ``extra`` is what brings it."""

    name: str
    extra: str
    purpose: str
    version: str | None


def examine_libraries() -> tuple[Library, ...]:
    """Every optional library that this Python and system could use."""
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
    if name == "triton":
        return sys.platform == "linux"
    if name == "zstandard":  # Python 3.14 reads Zstandard by itself
        return sys.version_info < (3, 14)
    return True
