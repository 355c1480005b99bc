"""What `train` will choose on this machine, and why not the alternatives."""

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


def why_not_accelerated(devices: tuple[str, ...], device: str) -> str:
    """Why training takes ``device`` by default though torch has others, such as ``mps:0``; empty where it has none.

    >>> why_not_accelerated(("mps:0",), "cpu")
    'mps is not used: training runs on CUDA and the CPU only.'
    >>> why_not_accelerated((), "cpu"), why_not_accelerated(("cuda:0",), "cuda")
    ('', '')
    """
    unused = sorted({name.split(":")[0] for name in devices} - {device})
    return f"{', '.join(unused)} is not used: training runs on CUDA and the CPU only." if unused else ""


def examine_precision(device: str) -> tuple[Choice, ...]:
    """bf16, fp16 and fp32 on ``device``: which one training takes by default and why not the others."""
    import torch

    from overnight.train.precision import choose_precision

    default = choose_precision(torch.device(device))
    others = {
        "bf16": "without bfloat16 units it would be slower",
        "fp16": "it needs loss scaling, and bf16 does not"
        if default.name == "bf16"
        else "without float16 units it would be slower",
        "fp32": f"its products are slower than {default.name}'s and take twice the memory",
    }
    return tuple(
        Choice(name, True, default.reason)
        if name == default.name
        else Choice(name, False, f"{why}; to have it: --precision {name}")
        for name, why in others.items()
    )


def examine_fast_paths(device_type: str | None = None) -> tuple[Choice, ...]:
    """Ways to run the recurrence of the byte model: which one training takes and why not the others.

    Args:
        device_type: where; None means where training runs by default.
    """
    import torch

    from overnight.nn.fast.graphed import why_no_graphs
    from overnight.nn.fast.sequence import serves
    from overnight.nn.fast.triton_cell import why_not_triton
    from overnight.nn.gates import MultiplicativeGates

    device = torch.device(device_type or training_device())
    fast = serves(MultiplicativeGates(2, 2).fold(torch.float32))
    no_triton, no_graphs = why_not_triton(device, torch.bfloat16), why_no_graphs(device)
    loop = "one autograd function for all time steps, "
    loop += f"launch by launch: {no_graphs}" if no_graphs else "repeated from CUDA graphs where memory recurs"
    unserved = "it does not serve the multiplicative LSTM"
    return (
        Choice(
            "whole-sequence function, Triton cell",
            fast and not no_triton,
            (no_triton or f"a launch for the cell of a step; {loop}") if fast else unserved,
        ),
        Choice(
            "whole-sequence function, eager cell",
            fast and bool(no_triton),
            (f"plain PyTorch; {loop}" if no_triton else "the same results by more launches") if fast else unserved,
        ),
        Choice(
            "readable loop",
            not fast,
            "the same results, slower; it is what the fast path is tested against"
            if fast
            else "one Python step per time step; there is no fast path here",
        ),
    )
