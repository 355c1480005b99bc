"""Where the ranks of one attempt find each other, and nothing of the attempt before."""

import time
import uuid
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from overnight.comm.checks import meeting_within
from overnight.errors import UserError


def meet(timeout: timedelta) -> tuple[Any, int, int]:
    """What torchrun's environment says: a store for this attempt alone, our rank, and how many ranks there are.

    torchrun (2.13) gives every attempt the same store, with all that the attempt before has written. A rank that is
    quicker than rank 0 then connects to a process that is gone, which ended two of five restarts. The count of restarts
    does not tell attempts apart, since each host counts its own. So rank 0 makes up a name for the attempt, and tells
    it to every rank under a name which that rank made up.

    Args:
        timeout: how long to wait for the others.

    Raises:
        UserError: if one does not come or the master is out of reach, with its address; or if the environment is not
            torchrun's.
    """
    with meeting_within(timeout.total_seconds()):
        try:
            store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        except ValueError as error:
            reason = str(error).rpartition(": ")[2].rstrip(".")
            raise UserError(
                f"RANK is set, but the ranks cannot meet: {reason}.", "Start them with torchrun."
            ) from error
        name = _invite(store, world_size, timeout) if rank == 0 else _ask(store, rank)
        return dist.PrefixStore(name, store), rank, world_size  # type: ignore[attr-defined]


def _invite(store: Any, world_size: int, timeout: timedelta) -> str:
    name = uuid.uuid4().hex
    missing, answered = set(range(1, world_size)), set[str]()
    end = time.monotonic() + timeout.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"overnight/{name}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"overnight/ask/{rank}"]):
                asking = store.get(f"overnight/ask/{rank}").decode()  # perhaps still that of the attempt before
                if asking not in answered:
                    store.set(f"overnight/answer/{asking}", name)
                    answered.add(asking)
        if missing:
            if time.monotonic() > end:
                raise UserError(
                    f"Rank {min(missing)} of {world_size} has not come within {timeout}.",
                    "Look for its host's error, and start every host with the same torchrun arguments.",
                )
            time.sleep(0.01)
    return name


def _ask(store: Any, rank: int) -> str:
    own = uuid.uuid4().hex
    store.set(f"overnight/ask/{rank}", own)
    name: str = store.get(f"overnight/answer/{own}").decode()  # waits
    store.set(f"overnight/{name}/{rank}", "")
    return name
