"""Word models: published sizes, torch's own LSTM, state, resets, dropout's places, and what is refused."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.neural_lm import FeedForwardLM, RecurrentLM
from overnight.models.word_lm import WordLM, clip_recurrent_only
from overnight.models.word_model import WordModel
from overnight.nn.gates import FactorizedGates
from overnight.tasks.word_model import WordModelTask

MODELS = {
    "lstm": lambda **o: WordLM(50, 12, 16, **o),
    "lstmp": lambda **o: WordLM(50, 12, 16, projection=8, gates="grouped:4", **o),
    "factorized": lambda **o: WordLM(50, 12, 16, gates="factorized:5", factor_init="svd", **o),
    "feed-forward": lambda **o: FeedForwardLM(50, 12, 16, direct=True, **o),
    "recurrent": lambda **o: RecurrentLM(50, 12, 16, **o),
}


def size(model: nn.Module, beginning: str = "") -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(beginning))


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ("dense", 151_060_480),
        ("factorized:512", 52_494_336),
        ("grouped:2", 83_951_616),
        ("grouped:4", 50_397_184),
        ("grouped:8", 33_619_968),
        ("grouped:16", 25_231_360),
    ],
)
def test_recurrent_parameters_of_the_biglstm_family(gates: str, expected: int) -> None:
    with torch.device("meta"):
        model = WordLM(1, 1024, 8192, projection=1024, gates=gates)
    assert size(model, "recurrent.") == expected


@pytest.mark.parametrize(("hidden", "expected"), [(200, 4_651_600), (650, 19_775_200), (1500, 66_022_000)])
def test_parameters_of_zaremba_et_al(hidden: int, expected: int) -> None:
    with torch.device("meta"):
        model = WordLM(10_000, hidden, hidden)
    assert size(model) == expected


def test_parameters_of_the_older_models() -> None:
    """Bengio et al. 2003: V (1 + C m + H) + H (1 + C m) + V m with direct connections; then an Elman network."""
    assert size(FeedForwardLM(100, 8, 16, context=3, direct=True)) == 100 * (1 + 24 + 16) + 16 * (1 + 24) + 100 * 8
    assert size(RecurrentLM(100, 8, 16)) == 100 * 8 + 16 * (8 + 16 + 1) + 100 * 17


@pytest.mark.parametrize("projection", [None, 8])
def test_equals_torch_in_loss_and_gradients(projection: int | None) -> None:
    """Embedding, nn.LSTM and nn.Linear with the same weights."""
    torch.manual_seed(0)
    model = WordLM(50, 12, 16, projection=projection, init_range=0.3)
    ids, state = torch.randint(50, (8, 3)), model.initial_carry(3)
    total, carry = model.loss(ids[:-1], ids[1:], state)
    total.backward()
    theirs = nn.LSTM(12, 16, 2, proj_size=projection or 0)
    weights: dict[str, Tensor] = {}
    for index, layer in enumerate(model.recurrent.layers):
        gates: Any = layer.gates
        weights[f"weight_ih_l{index}"] = gates.input_to_gates.weight
        weights[f"weight_hh_l{index}"] = gates.hidden_to_gates.weight
        weights[f"bias_ih_l{index}"] = gates.bias
        weights[f"bias_hh_l{index}"] = torch.zeros_like(gates.bias)
        if projection:
            weights[f"weight_hr_l{index}"] = layer.projection.weight  # type: ignore[union-attr]
    theirs.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    embedding = nn.Embedding.from_pretrained(model.embedding.weight.detach(), freeze=False)
    linear = nn.Linear(model.output_size, 50)
    linear.load_state_dict({"weight": model.output.weight.detach(), "bias": model.output.bias.detach()})
    h, (h_last, c_last) = theirs(embedding(ids[:-1]))
    expected = F.cross_entropy(linear(h).flatten(0, 1), ids[1:].flatten(), reduction="sum")
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(carry["h"], h_last.transpose(0, 1))
    torch.testing.assert_close(carry["c"], c_last.transpose(0, 1))
    torch.testing.assert_close(model.embedding.weight.grad, embedding.weight.grad)
    torch.testing.assert_close(model.output.weight.grad, linear.weight.grad)
    for name, weight in weights.items():
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, getattr(theirs, name).grad, msg=name)


def test_one_group_is_the_dense_model() -> None:
    torch.manual_seed(0)
    dense, grouped = WordLM(50, 12, 16, projection=8), WordLM(50, 12, 16, projection=8, gates="grouped:1")
    state = {name: value.unsqueeze(0) if "_to_gates" in name else value for name, value in dense.state_dict().items()}
    grouped.load_state_dict(state)
    ids = torch.randint(50, (7, 3))
    torch.testing.assert_close(grouped(ids)[0], dense(ids)[0])


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"feed-forward"}))
def test_a_reset_forgets_what_is_not_finite(name: str) -> None:
    torch.manual_seed(0)
    model: WordModel = MODELS[name]()
    bad = {part: torch.full_like(zeros, math.nan) for part, zeros in model.initial_carry(2).items()}
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[0] = True
    assert model(torch.randint(50, (5, 2)), bad, reset)[0].isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_two_reads_equal_one_and_resets_forget(name: str) -> None:
    torch.manual_seed(0)
    model: WordModel = MODELS[name]()
    ids, reset = torch.randint(50, (20, 4)), torch.rand(20, 4) < 0.2
    with torch.no_grad():
        whole, last = model(ids, model.initial_carry(4), reset)
        first, carry = model(ids[:9], None, reset[:9])
        second, twice = model(ids[9:], carry, reset[9:])
        torch.testing.assert_close(torch.cat([first, second]), whole)
        for part in last:
            torch.testing.assert_close(twice[part], last[part])
        forgotten = torch.zeros(20, 4, dtype=torch.bool)
        forgotten[8] = True
        torch.testing.assert_close(model(ids, None, forgotten)[0][8:], model(ids[8:])[0])
        assert not torch.equal(model(ids)[0][8], model(ids[8:])[0][0])  # the state matters


def test_the_feed_forward_model_sees_its_context_and_no_more() -> None:
    torch.manual_seed(0)
    model, ids = FeedForwardLM(50, 12, 16, context=3), torch.randint(1, 50, (9, 1))
    other = ids.clone()
    other[4] = 0
    changed = (model(ids)[0] != model(other)[0]).flatten(1).any(1)
    assert changed.tolist() == [4 <= at < 7 for at in range(9)]


def test_contexts_before_a_text_or_document_are_filled_with_pad() -> None:
    torch.manual_seed(0)
    model, ids = FeedForwardLM(50, 12, 16, context=3, pad=7), torch.randint(50, (6, 2))
    before = torch.full((2, 2), 7)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    with torch.no_grad():
        whole, carry = model(ids, None, reset)
        filled = model(torch.cat([before, ids[:3]]))[0][2:]
        again, last = model(torch.cat([before, ids[3:]]))
    torch.testing.assert_close(whole, torch.cat([filled, again[2:]]))
    assert torch.equal(carry["words"], last["words"])
    reset = torch.ones(1, 2, dtype=torch.bool)
    assert model(ids[:1], carry, reset)[1]["words"].tolist() == [[7, ids[0, lane].item()] for lane in range(2)]
    with pytest.raises(UserError, match=r"pad=50 is no word of 50\. It must be from 0 to 49"):
        FeedForwardLM(50, 12, 16, pad=50)


def test_the_plain_network_is_torchs() -> None:
    torch.manual_seed(0)
    model, ids = RecurrentLM(50, 12, 16), torch.randint(50, (9, 3))
    theirs = nn.RNN(12, 16)
    theirs.load_state_dict(
        {
            "weight_ih_l0": model.input.weight,
            "weight_hh_l0": model.recurrent.weight,
            "bias_ih_l0": model.input.bias,
            "bias_hh_l0": torch.zeros(16),
        }
    )
    torch.testing.assert_close(model.hidden(ids)[0], theirs(model.embedding(ids))[0])


def test_dropout_is_on_what_goes_up_only() -> None:
    """With everything dropped but little, the state moves as far as the recurrent path alone carries it."""
    torch.manual_seed(0)
    model = WordLM(50, 12, 16, layers=1, dropout=0.5)
    ids = torch.randint(50, (400, 8))
    h_TBN, carry = model.hidden(ids)
    assert (h_TBN == 0).float().mean() == pytest.approx(0.5, abs=0.02)  # what the output reads
    assert (carry["h"] != 0).all()  # what goes from step to step
    assert (carry["c"] != 0).all()
    model.eval()
    assert (model.hidden(ids)[0] != 0).all()


@pytest.mark.parametrize("name", ["lstm", "feed-forward", "recurrent"])
@pytest.mark.parametrize("output", ["sampled:20", "nce:20", "adaptive:10,30"])
def test_every_output_layer_trains_and_is_exact_in_evaluation(name: str, output: str) -> None:
    torch.manual_seed(0)
    model: WordModel = MODELS[name](output=output)
    ids = torch.randint(50, (9, 3))
    trained, _ = model.loss(ids[:-1], ids[1:])
    trained.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    model.eval()
    exact, _ = model.loss(ids[:-1], ids[1:])
    log_p, _ = model(ids[:-1])
    torch.testing.assert_close(exact, -log_p.gather(2, ids[1:].unsqueeze(2)).sum())
    torch.testing.assert_close(log_p.exp().sum(2), torch.ones(8, 3))


def test_rows_of_the_step_have_gradients_and_others_none() -> None:
    torch.manual_seed(0)
    model = WordLM(500, 12, 16, output="sampled:20", sparse=True)
    model.loss(torch.tensor([[3], [7], [3]]), torch.tensor([[7], [3], [9]]))[0].backward()
    assert model.embedding.weight.grad.coalesce().indices().tolist() == [[3, 7]]
    assert model.output.weight.grad.is_sparse


def test_tied_weights_are_one_parameter() -> None:
    torch.manual_seed(0)
    model = WordLM(50, 16, 16, tied=True)
    assert model.output.weight is model.embedding.weight
    assert size(model) == size(WordLM(50, 16, 16)) - 50 * 16
    with pytest.raises(UserError, match=r"tied weight has shape \[50, 12\], the output needs \[50, 16\]"):
        WordLM(50, 12, 16, tied=True)


def test_what_the_task_differentiates() -> None:
    torch.manual_seed(0)
    model = WordLM(50, 12, 16, gates="factorized:4")
    ids = torch.randint(50, (9, 3))
    batch = type("Batch", (), {"input_TB": ids[:-1], "target_TB": ids[1:], "reset_TB": None})()
    carry = model.initial_carry(3)
    mean, summed = (WordModelTask(model, reduction=name)(batch, carry) for name in ("mean", "sum_over_time"))
    assert (mean.count, summed.count) == (24, 24)
    torch.testing.assert_close(mean.total, mean.objective)
    torch.testing.assert_close(summed.total, mean.total)
    torch.testing.assert_close(summed.objective, 8 * mean.total)
    decayed = WordModelTask(model, frobenius_decay=0.2)(batch, carry)
    gates = [layer.gates for layer in model.recurrent.layers]
    dense = [g.rank_to_gates() @ torch.cat([g.input_to_rank(), g.hidden_to_rank()], 1) for g in gates]
    penalty = sum(0.1 * weight.square().sum() for weight in dense)
    torch.testing.assert_close(decayed.objective / 24, mean.total / 24 + penalty)
    torch.testing.assert_close(decayed.total, mean.total)
    with pytest.raises(UserError, match="frobenius_decay is for factorized gates"):
        WordModelTask(WordLM(50, 12, 16), frobenius_decay=0.1)


def test_the_embeddings_gradient_can_be_scaled_alone() -> None:
    torch.manual_seed(0)
    plain, scaled = WordLM(50, 12, 16), WordLM(50, 12, 16, embedding_gradient_scale=5.0)
    scaled.load_state_dict(plain.state_dict())
    ids = torch.randint(50, (9, 3))
    for model in (plain, scaled):
        model.loss(ids[:-1], ids[1:])[0].backward()
    torch.testing.assert_close(scaled.embedding.weight.grad, 5 * plain.embedding.weight.grad)
    torch.testing.assert_close(scaled.output.weight.grad, plain.output.weight.grad)


def test_groups_that_clip_the_recurrence_only() -> None:
    model = WordLM(50, 12, 16, projection=8)
    inside, outside = clip_recurrent_only(model)
    assert (inside["clip"], outside["clip"]) == (True, False)
    assert sum(p.numel() for p in inside["params"]) == size(model, "recurrent.")
    assert {id(p) for group in (inside, outside) for p in group["params"]} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gates": "grouped:3"}, "groups=3 does not divide hidden_size=16 and output_size=16"),
        ({"gates": "factorized:65"}, "rank=65 does not fit"),
        ({"gates": "factorized"}, "'factorized' is not a gate map"),
        ({"gates": "grouped:x"}, "'grouped:x' is not a gate map"),
        ({"output": "sampled:51"}, "51 samples cannot be drawn without replacement from a vocabulary of 50"),
        ({"output": "sampled"}, "'sampled' is not an output layer. Write full, sampled:N"),
        ({"output": "adaptive:30,10"}, r"cutoffs=\[30, 10\] do not cut 50 words"),
        ({"output": "adaptive:a"}, "'adaptive:a' is not an output layer"),
        ({"output": "sampled:9", "sampler": "magic"}, "'magic' is not a sampler"),
        ({"output": "sampled:9", "sampler": "unigram"}, "unigram sampler needs the words' counts"),
        ({"layers": 0}, "layers=0"),
        ({"dropout": 1.0}, r"dropout=1.0 is not a probability"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        WordLM(50, 12, 16, **settings)


def test_factors_by_svd_keep_the_range_of_a_dense_map() -> None:
    """U(-a, a) of the whole model is of the product: of the factors it would leave next to nothing of it."""
    torch.manual_seed(0)
    model = WordLM(50, 12, 16, gates="factorized:20", factor_init="svd", init_range=0.1)
    gates = model.recurrent.layers[0].gates
    assert isinstance(gates, FactorizedGates)
    dense = gates.rank_to_gates() @ torch.cat([gates.input_to_rank(), gates.hidden_to_rank()], 1)
    # twenty of 28 singular values are left: most of the variance of U(-a, a), which is a² / 3
    assert 0.7 < float(dense.detach().square().mean()) / (0.1**2 / 3) < 1.05
    plain = WordLM(50, 12, 16, gates="factorized:20", init_range=0.1)
    assert float(plain.recurrent.layers[0].gates.rank_to_gates().abs().max()) <= 0.1  # type: ignore[operator, union-attr]
