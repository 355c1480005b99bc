"""The byte language model: its size and its state."""

import pytest
import torch

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.nn.gates import Matrix


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("hidden", "expected"), [(4096, 86_319_360), (8192, 340_394_240)])
def test_parameter_count_of_the_paper(hidden: int, expected: int) -> None:
    with torch.device("meta"):
        model = ByteLM(hidden_size=hidden)
    assert size(model) == expected


def test_parameters_by_part() -> None:
    """H = 10, D = 4: 256 D + (5 H)(D + H) + 4 H bias + 2 (5 H) gains + 256 (H + 1)."""
    named = {name: tuple(p.shape) for name, p in ByteLM(hidden_size=10, embedding_size=4).named_parameters()}
    assert named == {
        "embedding.weight": (256, 4),
        "layers.0.gates.bias": (40,),
        "layers.0.gates.input_to_gates.weight_v": (40, 4),
        "layers.0.gates.input_to_gates.weight_g": (40,),
        "layers.0.gates.input_to_m.weight_v": (10, 4),
        "layers.0.gates.input_to_m.weight_g": (10,),
        "layers.0.gates.hidden_to_m.weight_v": (10, 10),
        "layers.0.gates.hidden_to_m.weight_g": (10,),
        "layers.0.gates.m_to_gates.weight_v": (40, 10),
        "layers.0.gates.m_to_gates.weight_g": (40,),
        "output.weight": (256, 10),
        "output.bias": (256,),
    }


def test_weight_norm_starts_where_the_plain_weights_are() -> None:
    torch.manual_seed(0)
    with_it = ByteLM(hidden_size=12)
    torch.manual_seed(0)
    without = ByteLM(hidden_size=12, weight_norm=False)
    ids = torch.randint(256, (9, 2))
    torch.testing.assert_close(with_it(ids)[0], without(ids)[0], rtol=0, atol=1e-6)


def test_weight_norm_makes_the_gain_the_norm() -> None:
    torch.manual_seed(0)
    matrix = Matrix(6, 5, 5, weight_norm=True, init="uniform")
    with torch.no_grad():
        matrix.weight_v.mul_(torch.rand(6, 1) * 9)
        matrix.weight_g.copy_(torch.arange(1.0, 7.0))
    torch.testing.assert_close(matrix().norm(dim=1), matrix.weight_g)


@pytest.mark.parametrize("setting", ["hidden_size", "embedding_size", "layers"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_size_below_one_is_named(setting: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{setting}={value}\\. {setting} must be at least 1"):
        ByteLM(**{"hidden_size": 8, setting: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("path", ["readable", "fast"])
@pytest.mark.parametrize("layers", [1, 2])
def test_two_reads_equal_one(path: str, layers: int, autocast: torch.dtype | None) -> None:
    torch.manual_seed(0)
    model = ByteLM(hidden_size=24, layers=layers, path=path)  # type: ignore[arg-type]
    ids, reset = torch.randint(256, (34, 5)), torch.rand(34, 5) < 0.1
    reset[17] = False
    with torch.no_grad(), torch.autocast("cpu", autocast, enabled=autocast is not None):
        whole, last = model(ids, model.initial_carry(5), reset)
        first, carry = model(ids[:17], None, reset[:17])
        second, twice = model(ids[17:], carry, reset[17:])
        alone, _ = model(ids[17:], None, reset[17:])
    tolerance = 1e-5 if autocast is None else 2**-6
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=tolerance)
    assert (alone[0] - whole[17]).abs().max() > 2 * tolerance  # the carry matters
    for name in ("h", "c"):
        assert carry[name].shape == (5, layers, 24)
        assert carry[name].dtype == torch.float32
        torch.testing.assert_close(twice[name], last[name], rtol=0, atol=tolerance)


def test_lanes_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    model, ids = ByteLM(hidden_size=16), torch.randint(256, (20, 4))
    reset = torch.zeros(20, 4, dtype=torch.bool)
    reset[10, 2] = True
    together, carry = model(ids, None, reset)
    for lane in range(4):
        alone, own = model(ids[:, lane : lane + 1], None, reset[:, lane : lane + 1])
        torch.testing.assert_close(together[:, lane : lane + 1], alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(carry["c"][lane : lane + 1], own["c"], rtol=0, atol=1e-5)


def test_a_reset_forgets_everything() -> None:
    torch.manual_seed(0)
    model, ids = ByteLM(hidden_size=16), torch.randint(256, (20, 1))
    reset = torch.zeros(20, 1, dtype=torch.bool)
    reset[8] = True
    torch.testing.assert_close(model(ids, None, reset)[0][8:], model(ids[8:])[0], rtol=0, atol=1e-5)


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = ByteLM(hidden_size=16, layers=2)
    model(torch.randint(256, (9, 3)))[0].logsumexp(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("weight_norm", [True, False])
def test_state_dict_round_trip(weight_norm: bool) -> None:
    torch.manual_seed(0)
    model, other = (ByteLM(hidden_size=8, weight_norm=weight_norm) for _ in range(2))
    other.load_state_dict(model.state_dict())
    ids = torch.randint(256, (5, 2))
    assert torch.equal(model(ids)[0], other(ids)[0])


def test_initial_values() -> None:
    torch.manual_seed(0)
    gates = ByteLM(hidden_size=64, forget_bias=1.5).requires_grad_(False).layers[0].gates
    assert gates.hidden_to_m.weight_v.abs().max() <= 1 / 8
    assert gates.hidden_to_m.weight_v.std() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert torch.equal(gates.bias[64:128], torch.full((64,), 1.5))
    assert gates.bias.abs().sum() == 64 * 1.5
    orthogonal = ByteLM(hidden_size=64, init="orthogonal").layers[0].gates.m_to_gates.weight_v.detach().split(64)
    assert len(orthogonal) == 4
    for block in orthogonal:
        torch.testing.assert_close(block @ block.t(), torch.eye(64), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="'magic' is not a known initialisation"):
        ByteLM(hidden_size=8, init="magic")
