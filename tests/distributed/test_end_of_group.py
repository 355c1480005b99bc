"""Nothing of a process group outlives ``start_world``: its threads would abort the end of the interpreter."""

import os
import subprocess
import sys

from train.launching import LOOPBACK

# in a process of its own, since it is about what is imported when
PROGRAM = """
import psutil, torch
from overnight.train.distributed import start_world

model = torch.nn.Linear(3, 3)
before = psutil.Process().num_threads()
with start_world("cpu"):
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    wrapped(torch.ones(2, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    inside = psutil.Process().num_threads()
    del wrapped
print(before, inside, psutil.Process().num_threads())
"""


def test_no_thread_of_the_group_is_left() -> None:
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    environment = os.environ | LOOPBACK | store | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    before, inside, after = map(int, run.stdout.split())
    assert inside > before
    assert after == before
