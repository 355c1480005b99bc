"""Generation: the stepper is the model, nothing is read twice, draws follow the settings, text stays whole."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.evaluate.generate import Sampler, generate, text
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper


def joined(model: nn.Module, prompts: list[bytes], length: int, **settings: Any) -> list[bytes]:
    steps = list(generate(model, prompts, length, **settings))
    assert len(steps) == length
    return [b"".join(stream) for stream in zip(*steps, strict=True)]


@torch.no_grad()
def greedy(model: ByteLM, prompt: bytes, length: int) -> bytes:
    """Most likely bytes, reading everything again for each."""
    read = list(prompt)
    for _ in range(length):
        logits, _ = model(torch.tensor(read).unsqueeze(1))
        read.append(int(logits[-1, 0].argmax()))
    return bytes(read[len(prompt) :])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_stepper_is_the_model(layers: int, weight_norm: bool) -> None:
    torch.manual_seed(0)
    model = ByteLM(hidden_size=33, embedding_size=7, layers=layers, weight_norm=weight_norm)
    ids = torch.randint(256, (40, 3))
    expected, last = model(ids)
    stepper = ByteStepper(model)
    _, carry = model(ids[:11])
    state = stepper.state(carry)
    for t in range(11, 40):
        logits, state = stepper.step(ids[t], state)
        torch.testing.assert_close(logits, expected[t], rtol=0, atol=1e-5)
        assert not logits.requires_grad
    for layer, (h, c) in enumerate(state):
        torch.testing.assert_close(h, last["h"][:, layer], rtol=0, atol=1e-5)
        torch.testing.assert_close(c, last["c"][:, layer], rtol=0, atol=1e-5)


def test_stepper_in_bf16_is_near() -> None:
    torch.manual_seed(0)
    model = ByteLM(hidden_size=64)
    stepper, exact = ByteStepper(model, torch.bfloat16), ByteStepper(model)
    states = [one.state(model.initial_carry(2)) for one in (stepper, exact)]
    for byte in range(20):
        ids = torch.tensor([byte, 255 - byte])
        near, states[0] = stepper.step(ids, states[0])
        true, states[1] = exact.step(ids, states[1])
        assert near.dtype == torch.float32
        torch.testing.assert_close(near, true, rtol=0, atol=0.02)


def test_greedy_equals_reading_everything_again(opinionated: ByteLM) -> None:
    prompts = [b"one", b"another prompt", b"x"]
    assert joined(opinionated, prompts, 30, temperature=0) == [greedy(opinionated, p, 30) for p in prompts]


def test_long_prompts(opinionated: ByteLM) -> None:
    prompts = [bytes(range(256)) * 3, b"short", bytes(range(255, -1, -1))]
    assert joined(opinionated, prompts, 10, temperature=0) == [greedy(opinionated, p, 10) for p in prompts]


def test_empty_prompt_starts_a_line(opinionated: ByteLM) -> None:
    assert joined(opinionated, [b""], 20, temperature=0) == [greedy(opinionated, b"\n", 20)]


def test_nothing_is_read_twice(opinionated: ByteLM, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward, step = ByteLM.forward, ByteStepper.step

    def counted_forward(self: ByteLM, ids: Tensor, *rest: Any) -> Any:
        read.append(ids.shape[0])
        return forward(self, ids, *rest)

    def counted_step(self: ByteStepper, ids: Tensor, state: Any) -> Any:
        read.append(1)
        return step(self, ids, state)

    monkeypatch.setattr(ByteLM, "forward", counted_forward)
    monkeypatch.setattr(ByteStepper, "step", counted_step)
    joined(opinionated, [b"p" * 700, b"q"], 50)
    assert sum(read) == 700 + 50 - 1


def test_the_seed_decides(opinionated: ByteLM) -> None:
    torch.manual_seed(1)
    first = joined(opinionated, [b"a"], 60, seed=3)
    torch.manual_seed(2)
    assert joined(opinionated, [b"a"], 60, seed=3) == first
    assert joined(opinionated, [b"a"], 60, seed=4) != first
    twins = joined(opinionated, [b"a", b"a"], 60, seed=3)
    assert twins[0] != twins[1]


def test_the_global_generator_and_mode_are_left_alone(opinionated: ByteLM) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in generate(opinionated, [b"a"], 5):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-320}, {"temperature": 1e-9}])
def test_limits_are_greedy(opinionated: ByteLM, settings: dict[str, Any]) -> None:
    assert joined(opinionated, [b"one"], 20, **settings) == [greedy(opinionated, b"one", 20)]


def expected_shares(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """The distribution that the settings describe, one byte after another from the most likely down."""
    p = [math.exp(value / temperature) for value in logits.tolist()]
    order = sorted(range(256), key=lambda byte: -p[byte])[:top_k]
    total, reached, kept = sum(p[byte] for byte in order), 0.0, []
    for byte in order:
        if top_p is not None and reached >= top_p:
            break
        kept.append(byte)
        reached += p[byte] / total
    share = torch.zeros(256, dtype=torch.float64)
    for byte in kept:
        share[byte] = p[byte]
    return share / share.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (2.0, None, None), (1.0, 5, None), (1.0, None, 0.7), (0.8, 20, 0.6)],
)
def test_draws_follow_the_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    torch.manual_seed(0)
    logits, draws = 2 * torch.randn(256), 50_000
    sampler = Sampler(torch.device("cpu"), temperature, top_k, top_p, seed=0)
    counts = torch.bincount(sampler(logits.expand(draws, 256)), minlength=256).double()
    share = expected_shares(logits, temperature, top_k, top_p)
    assert counts[share == 0].sum() == 0
    expected = share * draws
    often = expected > 5
    chi_squared = ((counts - expected)[often] ** 2 / expected[often]).sum().item()
    freedom = max(1, int(often.sum()) - 1)
    assert abs(chi_squared - freedom) < 4 * math.sqrt(2 * freedom)


def test_limits_that_change_nothing(opinionated: ByteLM) -> None:
    wide = [
        joined(opinionated, [b"one"], 20, **settings) for settings in ({"top_k": 256}, {"top_k": 999}, {"top_p": 1.0})
    ]
    assert wide[0] == wide[1] == wide[2]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"top_p": 1.01}, "top_p=1.01"),
        ({"top_p": math.nan}, "top_p=nan"),
        ({"length": 0}, "length=0"),
        ({"prompts": []}, "no prompt"),
        ({"model": nn.Linear(1, 1)}, "A Linear does not generate bytes"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        generate(**{"model": ByteLM(hidden_size=4), "prompts": [b"a"], "length": 5, **settings})


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_is_named(temperature: float, value: float) -> None:
    model = ByteLM(hidden_size=4)
    with torch.no_grad():
        model.output.bias[7] = value
    with pytest.raises(UserError, match="not finite"):
        list(generate(model, [b"a"], 5, temperature=temperature))


@given(st.binary(max_size=40), st.randoms())
def test_text_in_pieces_is_the_text(data: bytes, random: Any) -> None:
    chunks, start = [], 0
    while start < len(data):
        size = random.randint(1, 3)
        chunks.append(data[start : start + size])
        start += size
    assert "".join(text(chunks)) == data.decode("utf-8", errors="replace")


def test_no_half_character_is_shown() -> None:
    pieces = list(text(bytes((value,)) for value in "aé€😀z".encode()))
    assert [piece for piece in pieces if piece] == ["a", "é", "€", "😀", "z"]
    assert list(text([b"\xf0\x9f", b"\x98"])) == ["", "", "�"]


def clamped(model: ByteLM, data: bytes, layer: int, fixed: dict[int, float]) -> tuple[Tensor, Tensor]:
    """Logits after every byte and the layer's cell states, by the published equations, with c set before h is taken."""
    state = [(torch.zeros(model.hidden_size), torch.zeros(model.hidden_size)) for _ in model.layers]
    logits, cells = [], []
    for value in data:
        x = model.embedding.weight[value]
        for index, one in enumerate(model.layers):
            gates, (h, c) = one.gates, state[index]
            m = (gates.input_to_m() @ x) * (gates.hidden_to_m() @ h)
            i, f, g, o = (gates.input_to_gates() @ x + gates.m_to_gates() @ m + gates.bias).chunk(4)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            if index == layer:
                for unit, held in fixed.items():
                    c[unit] = held
                cells.append(c)
            x = torch.sigmoid(o) * torch.tanh(c)
            state[index] = (x, c)
        logits.append(model.output.weight @ x + model.output.bias)
    return torch.stack(logits), torch.stack(cells)


@pytest.mark.parametrize("layer", [0, 1, -1])
@torch.no_grad()
def test_fixed_units_hold_and_reach_h(layer: int) -> None:
    torch.manual_seed(0)
    model, fixed = ByteLM(hidden_size=17, embedding_size=6, layers=2), {3: 1.5, 16: -2.0}
    for parameter in model.parameters():
        parameter.mul_(3.0)
    data = b"some bytes of text"
    expected, cells = clamped(model, data, layer % 2, fixed)
    stepper = ByteStepper(model, fixed={layer % 2: fixed})
    state = stepper.state(model.initial_carry(2))
    for t, value in enumerate(data):
        logits, state = stepper.step(torch.tensor([value, value]), state)
        torch.testing.assert_close(logits, expected[t].expand(2, -1), rtol=0, atol=2e-5)
        torch.testing.assert_close(state[layer][1], cells[t].expand(2, -1), rtol=0, atol=2e-5)
        assert state[layer][1][:, [3, 16]].tolist() == [[1.5, -2.0]] * 2


@torch.no_grad()
def test_text_with_fixed_units_in_streams_of_any_prompt(opinionated: ByteLM) -> None:
    fixed, prompts = {2: 3.0, 7: -3.0, 11: 2.0}, [b"one", b"another prompt", b""]
    expected = []
    for prompt in prompts:
        read = list(prompt or b"\n")
        for _ in range(20):
            read.append(int(clamped(opinionated, bytes(read), 0, fixed)[0][-1].argmax()))
        expected.append(bytes(read[-20:]))
    assert joined(opinionated, prompts, 20, temperature=0, fix_units=fixed) == expected
    assert joined(opinionated, prompts, 20, temperature=0) != expected
    assert joined(opinionated, prompts, 20, temperature=0, fix_units={}) == joined(
        opinionated, prompts, 20, temperature=0
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fix_units": {4: 1.0}}, "unit=4: the model has 4 units a layer"),
        ({"fix_units": {-1: 1.0}}, "unit=-1"),
        ({"fix_units": {0: math.inf}}, "Unit 0 cannot be fixed at inf"),
        ({"fix_units": {0: 1.0}, "layer": 1}, "layer=1: the model has 1 layer"),
    ],
)
def test_units_that_cannot_be_fixed(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        generate(ByteLM(hidden_size=4), [b"a"], 5, **settings)
