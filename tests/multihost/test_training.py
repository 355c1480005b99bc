"""Training on two hosts by the command that a user would type on each, and what becomes of it when something breaks."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from multihost.launches import Torchrun, command
from multihost.network import Network
from train.launching import arguments, lines, make_corpus, overnight, same_end

STEPS = 150
SETTINGS = {"steps": STEPS, "checkpoint_steps": 50, "evaluations": 1, "keep_last": 9}
WAYS = ("ddp", "sampled", "local")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpora") / "corpus")


def words(corpus: Path, out: Path, way: str, **settings: object) -> list[str]:
    """Of ``overnight``: the run of these tests."""
    chosen = ["--parallel", way] if way != "plain" else []
    if way == "local":
        settings = {"parallel__every": 8} | settings  # it logs where the ranks meet
    return [*arguments(corpus, out, **SETTINGS | settings), *chosen]


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs of two ranks that nothing ever happened to, on one host."""
    folder = tmp_path_factory.mktemp("whole")

    def of(way: str) -> Path:
        if not (folder / way).exists():
            overnight(words(corpus, folder / way, way), folder / "logs", 2)
        return folder / way

    return of


def steps(run: Path) -> int:
    """The last that was logged."""
    logged = lines(run / "metrics.jsonl")
    return logged[-1]["step"] if logged else 0


def test_two_hosts_have_the_loss_of_one_process(network: Network, corpus: Path, tmp_path: Path) -> None:
    for host in network.hosts:
        host.throttle(100)
    before = [host.sent_bytes() for host in network.hosts]
    running = Torchrun(network, words(corpus, tmp_path / "two", "plain"), tmp_path / "logs")
    overnight(words(corpus, tmp_path / "one", "plain"), tmp_path / "logs")
    assert running.wait() == [0, 0], running.output()
    one, two = (lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    (alone,), (together,) = (lines(tmp_path / name / "eval.jsonl") for name in ("one", "two"))
    assert together["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-5)
    # the second host printed nothing of its own, and both sent every gradient
    assert "bits per byte" not in running.output(1)
    gradients = 4 * 8_544 * STEPS
    assert all(host.sent_bytes() - start > gradients for host, start in zip(network.hosts, before, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_host_that_dies_and_comes_back(
    network: Network, corpus: Path, whole: Callable[[str], Path], tmp_path: Path, way: str
) -> None:
    """As by a power cut: it says nothing to the other, which starts its worker again as soon as it is back."""
    out = tmp_path / "run"
    running = Torchrun(network, words(corpus, out, way), tmp_path / "logs", "--max-restarts", "3")
    running.until(lambda: steps(out) >= 60)
    network.hosts[1].unplug()
    running.kill(1)
    network.hosts[1].plug()
    running.start_again(1)
    assert running.wait() == [0, 0], running.output()
    checkpoint = 56 if way == "local" else 50  # local steps are saved where the ranks meet
    assert re.search(f"resumed at step {checkpoint} *\n", running.output(0)), running.output()
    same_end(out, whole(way))


def test_the_master_dies_and_the_run_is_resumed(
    network: Network, corpus: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """It holds the store by which hosts find each other, so that the others end, and all are started again."""
    out = tmp_path / "run"
    running = Torchrun(network, words(corpus, out, "plain"), tmp_path / "logs")
    running.until(lambda: steps(out) >= 60)
    running.kill(0)
    codes = running.wait()
    assert codes[1] not in (0, None)
    said = running.output(1)
    assert said.count("overnight: Rank 1 lost the others at step ") == 1, said
    assert f"overnight train {out} --resume" in said
    again = Torchrun(network, ["train", str(out), "--resume"], tmp_path / "logs")
    assert again.wait() == [0, 0], again.output()
    assert "resumed at step 50" in again.output(0)
    same_end(out, whole("plain"))


def test_a_link_that_is_cut_for_some_seconds(
    network: Network, corpus: Path, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    running = Torchrun(network, words(corpus, out, "plain"), tmp_path / "logs")
    running.until(lambda: steps(out) >= 60)
    network.hosts[1].unplug()
    time.sleep(1.0)
    stood = steps(out)
    time.sleep(2.0)
    assert steps(out) == stood < STEPS  # it waits
    network.hosts[1].plug()
    assert running.wait() == [0, 0], running.output()
    assert "resumed" not in running.output()
    same_end(out, whole("plain"))


def test_a_master_out_of_reach_is_named(network: Network, tmp_path: Path) -> None:
    """In a loop of one's own; torchrun has a timeout too, and names the address as well."""
    program = "from overnight.comm import join_ranks; join_ranks('gloo', timeout_seconds=2)"
    here = {"MASTER_ADDR": "10.77.0.9", "MASTER_PORT": "29500", "RANK": "1", "WORLD_SIZE": "2"}
    began = time.monotonic()
    code, said = command(network.hosts[1], [sys.executable, "-c", program], tmp_path / "log", **here)
    assert code != 0
    assert "Rank 1 of 2 did not meet the others at 10.77.0.9:29500 within 2 s" in said
    assert time.monotonic() - began < 60
    options = ["--nnodes", "2", "--node-rank", "1", "--master-addr", "10.77.0.9", "--rdzv-conf", "timeout=2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "overnight", "list"]
    code, said = command(network.hosts[1], launcher, tmp_path / "torchrun")
    assert code != 0
    assert "10.77.0.9" in said
