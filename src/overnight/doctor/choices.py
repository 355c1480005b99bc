"""What `train` will choose on this machine, and why not the alternatives."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One alternative: whether it is the one taken, and the reason either way."""

    name: str
    chosen: bool
    reason: str


def training_device() -> str:
    """The kind of device that training takes by default: ``cuda`` where there is one, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def examine_precision(device: str, instructions: Collection[str]) -> tuple[Choice, ...]:
    """bf16, fp16 and fp32 on ``device``: which one is the default and why not the others."""
    name, reason = choose_precision(device, instructions)
    others = {
        "bf16": "this device has no instructions for it, so it would be slower than fp32.",
        "fp16": "it needs loss scaling and is only faster on GPUs; take it with --precision fp16.",
        "fp32": "it takes twice the memory traffic; take it with --precision fp32.",
    }
    return tuple(Choice(p, p == name, reason if p == name else why) for p, why in others.items())


def choose_precision(device: str, instructions: Collection[str]) -> tuple[str, str]:
    """(default precision, reason) for training on ``device``."""
    if device == "cuda":
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU multiplies bfloat16 in hardware, and it needs no loss scaling."
        if torch.cuda.get_device_capability() >= (7, 0):
            return "fp16", "this GPU multiplies float16 but not bfloat16 in hardware; the loss is scaled."
        return "fp32", "this GPU has no tensor cores."
    native = [name for name in ("amx_bf16", "avx512_bf16", "svebf16", "bf16") if name in instructions]
    if native:
        return "bf16", f"this processor multiplies bfloat16 in hardware ({native[0]})."
    return "fp32", "this processor has no bfloat16 instructions."


def examine_fast_paths() -> tuple[Choice, ...]:
    """Ways to run the recurrence of the byte model: which one training takes and why not the others."""
    import torch

    from overnight.nn.fast import sequence
    from overnight.nn.gates import MultiplicativeGates

    fast = sequence.find(MultiplicativeGates(2, 2).fold(torch.float32)) is not None
    return (
        Choice(
            "whole-sequence function",
            fast,
            "one autograd function for all time steps, in plain PyTorch, on every device."
            if fast
            else "it does not serve the multiplicative LSTM.",
        ),
        Choice(
            "readable loop",
            not fast,
            "the same results, slower; it is what the fast path is tested against."
            if fast
            else "one Python step per time step; there is no fast path here.",
        ),
    )
