"""Where a rank of an asynchronous run is, and where its server."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from overnight.comm.asynchronous import ServerLostError
from overnight.comm.checks import first_line
from overnight.errors import UserError
from overnight.train.distributed import choose_device

T = TypeVar("T")
BETWEEN_TRIES_SECONDS = 0.2


@dataclass(frozen=True)
class Place:
    """This process among the others, without a process group.

    Attributes:
        rank, world_size: of all processes; 0 and 1 where nobody started several.
        device: where this rank computes.
        host: by which the others reach rank 0.
        port: where the server listens; 0 if it finds one itself and says so in the store.
        store: torchrun's, which takes the master port for itself; None without torchrun.
    """

    rank: int
    world_size: int
    device: torch.device
    host: str
    port: int
    store: Any

    def announce(self, port: int) -> None:
        """Rank 0 says where its server listens."""
        if self.store is not None:
            self.store.set(_key(), str(port))

    def find(self, come: Callable[[str, int, float], T], seconds: float) -> T:
        """Try ``come(host, port, seconds to wait)`` until it finds a server, or the time is over.

        Raises:
            ServerLostError: if it does not.
        """
        if self.store is None:
            return come(self.host, self.port, seconds)
        end = time.monotonic() + seconds
        while True:
            # what stands there may be of a server that is gone
            port = self._announced()
            if port is not None:
                try:
                    return come(self.host, port, 1.0)
                except ServerLostError:
                    if time.monotonic() > end:
                        raise
            elif time.monotonic() > end:
                raise ServerLostError(
                    f"Rank 0 has not started a parameter server on {self.host} within {seconds:g} s.",
                    "Look for its error.",
                )
            time.sleep(BETWEEN_TRIES_SECONDS)

    def _announced(self) -> int | None:
        try:
            return int(self.store.get(_key())) if self.store.check([_key()]) else None
        except RuntimeError as error:  # torchrun's store is on rank 0's host
            raise ServerLostError(
                f"The parameter server at {self.host} is gone, and torchrun's store with it ({first_line(error)}).",
                "Look for its error; start again from its last checkpoint.",
            ) from error


def find_place(device: str, timeout_seconds: float) -> Place:
    """What torchrun's environment says, or a user who has set the same variables.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        timeout_seconds: for torchrun's store to answer.

    Raises:
        UserError: for a device that this machine does not have, or an environment that is not whole.
    """
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Place(0, 1, chosen, "127.0.0.1", 0, None)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UserError(f"RANK is set, but not {' and '.join(missing)}.", "Start the ranks with torchrun.")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port_text = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if not port_text.isdecimal():
        raise UserError(f"MASTER_PORT={port_text!r} is no port.", "Start the ranks with torchrun.")
    port = int(port_text)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return Place(rank, size, chosen, host, port, None)
    module: Any = dist
    try:
        store = module.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=timeout_seconds))
    except RuntimeError as error:
        raise UserError(
            f"torchrun does not answer at {host}:{port} within {timeout_seconds:g} s.", "Look for its error."
        ) from error
    return Place(rank, size, chosen, host, 0, store)


def _key() -> str:
    return f"overnight/async/{os.environ.get('TORCHELASTIC_RUN_ID', '')}"
