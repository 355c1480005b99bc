"""Links between workers, by name: what their standards or makers promise in one direction."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from overnight.errors import UserError


@dataclass(frozen=True)
class Link:
    """One worker's link.

    Attributes:
        name: for people.
        bits_per_second: nominal, in one direction, headers included.
        latency_us: of one message in one direction, in microseconds. No standard has it: these are orders of magnitude,
            assumed and not measured, to be replaced by what your own network shows.
        source: of the nominal figure.

    Raises:
        UserError: for a rate that is not above 0, or a latency below 0.
    """

    name: str
    bits_per_second: float
    latency_us: float
    source: str

    def __post_init__(self) -> None:
        if not self.bits_per_second > 0 or not self.latency_us >= 0:
            raise UserError(
                f"The link {self.name} cannot have {self.bits_per_second:g} bits a second and {self.latency_us:g} µs.",
                "Give a rate above 0 and a latency of at least 0.",
            )


_NVLINK = "data sheet, {} GB/s a GPU over both directions"
LINKS: Mapping[str, Link] = MappingProxyType(
    {
        "100M": Link("100 Mb/s Ethernet", 100e6, 100.0, "IEEE 802.3u"),
        "1G": Link("1 Gb/s Ethernet", 1e9, 50.0, "IEEE 802.3ab"),
        "10G": Link("10 Gb/s Ethernet", 10e9, 30.0, "IEEE 802.3ae"),
        "25G": Link("25 Gb/s Ethernet", 25e9, 20.0, "IEEE 802.3by"),
        "100G": Link("100 Gb/s Ethernet", 100e9, 10.0, "IEEE 802.3bj, 802.3bm"),
        "hdr": Link("InfiniBand HDR", 200e9, 2.0, "InfiniBand Trade Association, HDR 4x: 200 Gb/s"),
        "ndr": Link("InfiniBand NDR", 400e9, 2.0, "InfiniBand Trade Association, NDR 4x: 400 Gb/s"),
        "pcie4": Link("PCI Express 4.0 x16", 16 * 16e9 * 128 / 130, 2.0, "PCI-SIG: 16 GT/s a lane, 128b/130b"),
        "pcie5": Link("PCI Express 5.0 x16", 16 * 32e9 * 128 / 130, 2.0, "PCI-SIG: 32 GT/s a lane, 128b/130b"),
        "nvlink3": Link("NVLink 3 (A100)", 8 * 300e9, 2.0, "NVIDIA A100 " + _NVLINK.format(600)),
        "nvlink4": Link("NVLink 4 (H100, H200)", 8 * 450e9, 2.0, "NVIDIA H100 " + _NVLINK.format(900)),
    }
)
"""Short name → link.

>>> LINKS["ndr"].bits_per_second / LINKS["100M"].bits_per_second
4000.0
"""


def link(name: str) -> Link:
    """The link of this short name.

    Raises:
        UserError: for an unknown one; the message has all names.

    >>> link("10G").name
    '10 Gb/s Ethernet'
    """
    found = LINKS.get(name)
    if found is None:
        raise UserError(f"No link is named {name!r}.", f"Choose one of {', '.join(LINKS)}, or make a Link of your own.")
    return found
