"""A checkpoint on its way to the disk: written by rank 0, and where weights are sharded by every rank."""

import shutil
from pathlib import Path

from overnight.train.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from overnight.train.distributed import World
from overnight.train.folder import begin_folder
from overnight.train.sharded import FOLDER, check_shared, write_shards


def save_on_ranks(folder: Path, checkpoint: Checkpoint, keep_last: int, world: World) -> None:
    """``save_checkpoint`` on rank 0, after every rank has written its shards beside it; every rank must call.

    Args:
        folder: of all checkpoints.
        checkpoint: what ``capture`` gave.
        keep_last: besides the best.
        world: the ranks.

    Raises:
        UserError: if it cannot be written, or other hosts do not see the folder; the checkpoints before it are as they
            were.
    """
    if not checkpoint.shards:
        world.on_main(lambda: save_checkpoint(folder, checkpoint, keep_last))
        return
    aside: Path = world.broadcast_object(world.on_main(lambda: begin_folder(checkpoint_path(folder, checkpoint))))
    try:
        world.together(lambda: check_shared(aside))
        world.alike(lambda: write_shards(aside / FOLDER, checkpoint.shards))
        world.on_main(lambda: save_checkpoint(folder, checkpoint, keep_last, aside))
    finally:
        if world.is_main:
            shutil.rmtree(aside, ignore_errors=True)
