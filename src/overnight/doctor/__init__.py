"""What this machine has, how fast it is, and what training will choose on it."""

from dataclasses import dataclass
from pathlib import Path

from overnight.doctor.accelerators import Torch, examine_torch
from overnight.doctor.choices import Choice, examine_fast_paths, examine_precision, training_device
from overnight.doctor.libraries import Library, examine_libraries
from overnight.doctor.machine import Machine, examine_machine
from overnight.doctor.rate import Rate, measure_rates

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """Everything `overnight doctor` knows; ``device`` is the kind that training takes by default."""

    overnight: str
    machine: Machine
    torch: Torch
    device: str
    rates: tuple[Rate, ...]
    precision: tuple[Choice, ...]
    fast_paths: tuple[Choice, ...]
    libraries: tuple[Library, ...]


def examine(folder: Path, measure: bool = True) -> Examination:
    """Examine this machine.

    Args:
        folder: where runs would be written; its free disk is reported.
        measure: also time matrix products, which takes about a second.
    """
    from overnight import __version__

    machine = examine_machine(folder)
    device = training_device()
    return Examination(
        overnight=__version__,
        machine=machine,
        torch=examine_torch(),
        device=device,
        rates=measure_rates(device) if measure else (),
        precision=examine_precision(device),
        fast_paths=examine_fast_paths(),
        libraries=examine_libraries(),
    )
