"""Over two ranks the noise scale is that of one process with the same micro-batches."""

from typing import Any

import pytest
import torch
from scaling.ranks_work import STEPS, measured, model, readings, train
from train.on_ranks import on_ranks

from overnight.scaling.noise_reading import NoiseReading
from overnight.scaling.noise_scale import NoiseScale


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    results = on_ranks(measured, tmp_path_factory.mktemp("ranks"), 2)
    assert all(isinstance(result, dict) for result in results), results
    return results


def alone() -> tuple[NoiseScale, torch.nn.Module, torch.optim.Optimizer]:
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    return NoiseScale(net.named_parameters(), optimizer=optimizer, block_steps=2, blocks=4), net, optimizer


def close(a: NoiseReading, b: NoiseReading) -> bool:
    names = ("noise_scale", "low", "high", "gradient_square", "trace", "steps")
    same = all(getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-12) for name in names)
    return same and all(close(a.layers[name], b.layers[name]) for name in b.layers)


def test_two_ranks_measure_what_one_process_does(found: list[dict[str, Any]]) -> None:
    noise, net, optimizer = alone()
    train(net, noise, optimizer, range(STEPS), 0, 1)
    for result in found:
        for over_ranks, one in zip(result["readings"], readings(noise), strict=True):
            assert close(over_ranks, one)
            assert one.steps == 8


def test_every_rank_has_the_whole_in_its_checkpoint(found: list[dict[str, Any]]) -> None:
    """So one process goes on where two stopped."""
    noise, net, optimizer = alone()
    train(net, noise, optimizer, range(STEPS), 0, 1)
    for result in found:
        resumed = NoiseScale(net.named_parameters(), optimizer=optimizer, block_steps=2, blocks=4)
        resumed.load_state_dict(result["state"])
        assert close(resumed.read(), noise.read())
        resumed.close()


def test_one_micro_batch_on_each_of_two_ranks_is_enough(found: list[dict[str, Any]]) -> None:
    assert not any("error" in result for result in found)
