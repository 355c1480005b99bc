"""The engine: lanes come and go, nothing is lost, nobody waits without end, errors stay where they belong."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.serve.engine import Engine, Job
from overnight.serve.lanes import Batch
from overnight.serve.limits import Limits
from overnight.serve.readings import History, Kept, Reading
from overnight.serve.refusal import RefusalError


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    """Limits by name → an engine on a small model."""
    opened: list[Engine] = []

    def make(**limits: float) -> Engine:
        torch.manual_seed(0)
        batch = Batch(ByteLM(hidden_size=8, embedding_size=4).eval().requires_grad_(False))
        opened.append(Engine(batch, Limits(**limits)))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


class Waited:
    """A job of some lanes, and how it ended."""

    def __init__(self, *lanes: Any, **how: Any) -> None:
        self.ended = threading.Event()
        self.errors: list[Exception | None] = []
        self.job = Job([partial(_same, lane) for lane in lanes], self._finished, **how)

    def _finished(self, error: Exception | None) -> None:
        self.errors.append(error)
        self.ended.set()

    def error(self) -> Exception | None:
        assert self.ended.wait(30), "the job never ended"
        assert len(self.errors) == 1, "a job ends once"
        return self.errors[0]


def _same(lane: Any) -> Any:
    return lane


class Endless:
    """A lane that never ends of its own accord, or fails at a given byte."""

    start, wants_states, fixed, layer = None, False, {}, 0

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.read, self.fails_at, self.failure = 0, fails_at, error
        self.begun = threading.Event()

    def give(self) -> int:
        return 7

    def take(self, logits_V: Tensor, nats_V: Any, state: Any) -> bool:
        self.begun.set()
        self.read += 1
        if self.read == self.fails_at and self.failure is not None:
            raise self.failure
        return False


def test_more_lanes_than_room_are_all_read(engines: Callable[..., Engine]) -> None:
    engine = engines(lanes=3)
    alone = engines(lanes=1)
    texts = [bytes([65 + i]) * (i % 5 + 1) for i in range(20)]
    found = [Reading(text, layer=0) for text in texts]
    expected = [Reading(text, layer=0) for text in texts]
    jobs = [Waited(*found[:11]), Waited(*found[11:])]
    for waited in jobs:
        engine.submit(waited.job)
    assert [waited.error() for waited in jobs] == [None, None]
    one_by_one = Waited(*expected)
    alone.submit(one_by_one.job)
    assert one_by_one.error() is None
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.bits, theirs.bits, rtol=1e-5)
        assert mine.feature is not None
        np.testing.assert_allclose(mine.feature, theirs.feature, rtol=1e-4, atol=1e-6)
    assert engine.lane_steps == sum(map(len, texts))
    assert engine.steps < engine.lane_steps / 2


def test_a_short_request_passes_a_long_one(engines: Callable[..., Engine]) -> None:
    engine = engines(lanes=2)
    long = Waited(*[Reading(b"a" * 3000) for _ in range(40)])
    short = Waited(Reading(b"abc"))
    engine.submit(long.job)
    engine.submit(short.job)
    assert short.error() is None
    assert not long.ended.is_set()
    long.job.cancel()
    assert isinstance(long.error(), RefusalError)


def test_limits_of_requests_and_streams(engines: Callable[..., Engine]) -> None:
    engine = engines(requests=3, streams=1)
    waiting = [Waited(Endless(), stream=index == 0) for index in range(3)]
    engine.submit(waiting[0].job)
    engine.submit(waiting[1].job)
    with pytest.raises(RefusalError, match="1 texts are being written already") as stream:
        engine.submit(Waited(Endless(), stream=True).job)
    engine.submit(waiting[2].job)
    with pytest.raises(RefusalError, match="3 requests are in work or waiting already") as full:
        engine.submit(Waited(Endless()).job)
    assert (stream.value.status, full.value.status) == (429, 503)
    assert full.value.headers["Retry-After"] == "1"
    for one in waiting:
        one.job.cancel()
        assert isinstance(one.error(), RefusalError)
    again = Waited(Reading(b"abc"), stream=True)
    engine.submit(again.job)
    assert again.error() is None


def test_what_takes_too_long_is_ended_and_the_rest_goes_on(engines: Callable[..., Engine]) -> None:
    engine = engines(seconds=0.3)
    slow_lane = Endless()
    slow = Waited(slow_lane)
    engine.submit(slow.job)
    error = slow.error()
    assert isinstance(error, RefusalError)
    assert (error.status, error.code) == (504, "too_long")
    assert error.problem == "The answer was not complete after 0.3 seconds: it is too long for this model here."
    assert "Retry-After" not in error.headers
    named = int(error.remedy.removeprefix("Ask for at most about ").removesuffix(" bytes a text.").replace(",", ""))
    assert slow_lane.read / 4 < named < slow_lane.read * 20
    after = Waited(Reading(b"abc"))
    engine.submit(after.job)
    assert after.error() is None


def test_what_never_got_a_place_may_come_again(engines: Callable[..., Engine]) -> None:
    engine = engines(seconds=0.3, lanes=1)
    first, second = Waited(Endless()), Waited(Endless())
    engine.submit(first.job)
    engine.submit(second.job)
    errors = [waited.error() for waited in (first, second)]
    assert all(isinstance(error, RefusalError) for error in errors)
    assert [error.code for error in errors] == ["too_long", "busy"]


def test_a_lane_that_cannot_go_on_ends_its_own_request_only(engines: Callable[..., Engine]) -> None:
    engine = engines()
    failure = UserError("The model's output is not finite.")
    other = Waited(Reading(b"a" * 300))
    failing = Waited(Endless(fails_at=5, error=failure), Endless())
    engine.submit(other.job)
    engine.submit(failing.job)
    assert failing.error() is failure
    assert other.error() is None
    assert engine.load() == {"requests": 0, "lanes": 0}


def test_a_step_that_fails_ends_what_is_in_work_and_not_the_server(engines: Callable[..., Engine]) -> None:
    engine = engines()
    broken = RuntimeError("out of memory")
    failing = Waited(Endless(fails_at=5, error=broken))
    engine.submit(failing.job)
    assert failing.error() is broken
    after = Waited(Reading(b"abc"))
    engine.submit(after.job)
    assert after.error() is None


def test_a_lane_that_cannot_be_made_ends_its_request(engines: Callable[..., Engine]) -> None:
    def never() -> Any:
        raise MemoryError

    engine = engines()
    waited = Waited(Reading(b"abc"))
    waited.job.lanes = [never]
    engine.submit(waited.job)
    assert isinstance(waited.error(), MemoryError)


def test_memory_for_histories_is_waited_for(engines: Callable[..., Engine]) -> None:
    engine = engines(history_bytes=1000)
    first, second = Endless(), Endless()
    jobs = [Waited(first, held_bytes=900), Waited(second, held_bytes=900)]
    reading = Waited(Reading(b"abc"))
    for waited in (*jobs, reading):
        engine.submit(waited.job)
    assert reading.error() is None, "one that holds nothing does not wait"
    assert first.begun.is_set()
    assert not second.begun.is_set()
    jobs[0].job.cancel()
    assert second.begun.wait(30)
    jobs[1].job.cancel()
    assert all(isinstance(waited.error(), RefusalError) for waited in jobs)


def test_closing_refuses_what_is_left(engines: Callable[..., Engine]) -> None:
    engine = engines()
    left = Waited(Endless())
    engine.submit(left.job)
    engine.close()
    assert str(left.error()) == "The server is closing. Try again in a moment."
    with pytest.raises(RefusalError, match="closing"):
        engine.submit(Waited(Endless()).job)


def test_histories_that_are_kept() -> None:
    def history(text: bytes) -> History:
        return History(text, [(5, 5)], torch.device("cpu"))

    size = history(b"abcd").nbytes
    assert size == 4 * 2 * 5 * 4
    kept = Kept(2 * size)
    assert kept.nearest(b"abc") is None
    for text in (b"abcd", b"abxx", b"zzzz"):
        kept.keep(history(text))
    nearest = kept.nearest(b"abcde")
    assert nearest is not None
    assert nearest.text == b"abxx", "the oldest went, for want of room"
    assert kept.nearest(b"qq") is None
    kept.keep(history(b"a" * 100))
    assert kept.nearest(b"a") is None, "what is larger than all the room is not kept"
    for _ in range(3):
        kept.keep(history(b"abcd"))
    kept.keep(history(b"zzzz"))
    assert kept.nearest(b"abcd") is not None, "one that comes again takes room once"


def test_histories_are_few_however_small() -> None:
    kept = Kept(1 << 20, most=3)
    for text in (b"ab", b"cd", b"ef", b"ab", b"gh"):
        kept.keep(History(text, [(5, 5)], torch.device("cpu")))
    assert [kept.nearest(text) is not None for text in (b"ab", b"cd", b"ef", b"gh")] == [True, False, True, True]


def test_a_model_that_diverged_is_named(engines: Callable[..., Engine]) -> None:
    torch.manual_seed(0)
    model = ByteLM(hidden_size=8, embedding_size=4).eval().requires_grad_(False)
    model.output.bias.fill_(torch.nan)
    engine = Engine(Batch(model), Limits())
    waited = Waited(Reading(b"abc"))
    engine.submit(waited.job)
    assert str(waited.error()).startswith("The model's output is not finite.")
    engine.close()
