"""Which number format the products run in, and why."""

import platform
from dataclasses import dataclass

import torch

from overnight.errors import UserError


@dataclass(frozen=True)
class Precision:
    """A chosen precision: its name, autocast's dtype (None for float32) and a sentence that says why."""

    name: str
    dtype: torch.dtype | None
    reason: str


def cpu_bf16_units() -> str | None:
    """The name of the bfloat16 matrix or vector instructions that torch will use on this CPU, or None."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        # torch has no public query on Arm; its own capability string names what it dispatches to
        return "Arm BF16" if "SVE" in torch.backends.cpu.get_cpu_capability() else None
    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return "AMX"
    if getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return "AVX512-BF16"
    return None


def choose_precision(device: torch.device, wanted: str = "auto") -> Precision:
    """bf16 where the device has it, float32 elsewhere, unless asked otherwise.

    Raises:
        UserError: for a precision that the device cannot run.
    """
    if wanted == "fp32":
        return Precision("fp32", None, "as asked")
    if wanted == "fp16":
        if device.type == "mps":
            raise UserError("fp16 training is not supported on mps.", "Use --precision fp32.")
        return Precision("fp16", torch.float16, "as asked; with dynamic loss scaling")
    if wanted == "bf16":
        return Precision("bf16", torch.bfloat16, "as asked")
    if wanted != "auto":
        raise UserError(f"{wanted!r} is not a precision.", "Choose auto, fp32, bf16 or fp16.")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", torch.bfloat16, f"{torch.cuda.get_device_name(device)} has bf16 units")
        return Precision("fp16", torch.float16, f"{torch.cuda.get_device_name(device)} has no bf16 units")
    if device.type == "cpu":
        units = cpu_bf16_units()
        if units:
            return Precision("bf16", torch.bfloat16, f"this CPU has {units}")
        return Precision("fp32", None, "this CPU has no bf16 units")
    return Precision("fp32", None, f"no rule for {device.type}")
