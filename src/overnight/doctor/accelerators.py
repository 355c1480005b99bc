"""What torch sees: its version, accelerators, threads and the backends it can talk between processes with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """One device: ``capability`` is CUDA's compute capability such as ``9.0``, empty elsewhere."""

    device: str
    name: str
    memory_bytes: int | None
    capability: str


@dataclass(frozen=True)
class Torch:
    """torch itself.

    Args:
        version: with its build, such as ``2.13.0+cpu``.
        cuda: version of CUDA it was built for, or None.
        threads: that one operation uses.
        accelerators: empty when there are none.
        backends: of torch.distributed, such as gloo and nccl.
        note: why a machine with an accelerator may show none, or empty.
    """

    version: str
    cuda: str | None
    threads: int
    accelerators: tuple[Accelerator, ...]
    backends: tuple[str, ...]
    note: str


def examine_torch() -> Torch:
    """Ask torch what it can use."""
    import torch

    return Torch(
        version=torch.__version__,
        cuda=torch.version.cuda,
        threads=torch.get_num_threads(),
        accelerators=_accelerators(),
        backends=_backends(),
        note=_note(),
    )


def _accelerators() -> tuple[Accelerator, ...]:
    import torch

    if torch.cuda.is_available():
        devices = [(f"cuda:{i}", torch.cuda.get_device_properties(i)) for i in range(torch.cuda.device_count())]
        return tuple(Accelerator(d, p.name, p.total_memory, f"{p.major}.{p.minor}") for d, p in devices)
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count()
        return tuple(Accelerator(f"{kind}:{i}", str(kind), None, "") for i in range(count))
    return ()


def _backends() -> tuple[str, ...]:
    import torch.distributed as dist

    if not dist.is_available():
        return ()
    known = (("gloo", dist.is_gloo_available), ("nccl", dist.is_nccl_available), ("mpi", dist.is_mpi_available))
    return tuple(name for name, present in known if present())


def _note() -> str:
    from pathlib import Path

    import torch

    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        if torch.version.cuda is None:
            return "An NVIDIA driver is here, but this torch is built without CUDA: install the CUDA build of torch."
        return "An NVIDIA driver is here, but torch cannot use it: it may be older than this torch needs."
    return ""
