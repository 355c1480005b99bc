"""GNMT: it is what torch's own modules make of the published description, and padding has no part in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.pairs import write_pairs
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from overnight.data.pairs import PairCorpus
from overnight.data.pairs.batches import PairBatch, gather
from overnight.errors import UserError
from overnight.models.gnmt_encoder import reversed_steps
from overnight.models.seq2seq import GNMT
from overnight.nn.recurrence import Recurrent
from overnight.recipes.gnmt_presets import PRESETS
from overnight.tasks.translation import TranslationTask


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PairCorpus:
    return PairCorpus(write_pairs(tmp_path_factory.mktemp("pairs") / "corpus"))


def model_for(corpus: PairCorpus, **settings: Any) -> GNMT:
    torch.manual_seed(0)
    sizes = {"hidden_size": 6, "encoder_layers": 3, "decoder_layers": 4, "dropout": 0.0, "init_range": 0.5}
    return GNMT(*corpus.vocab_sizes, **{**sizes, **settings}).double()


def batch_of(corpus: PairCorpus, count: int = 9) -> PairBatch:
    stream = corpus.split("train")
    return gather(stream, torch.arange(count).numpy(), corpus.bos)


def by_hand(vocabulary: int, hidden: int, layers: int, biases: int) -> int:
    """One embedding, a classifier with bias, the attention's two matrices, two vectors and a gain, and the LSTMs."""

    def lstm(inputs: int) -> int:
        return 4 * hidden * (inputs + hidden + biases)

    encoder = 2 * lstm(hidden) + lstm(2 * hidden) + (layers - 2) * lstm(hidden)
    decoder = lstm(hidden) + (layers - 1) * lstm(2 * hidden)
    attention = 2 * hidden * hidden + 2 * hidden + 1
    return vocabulary * hidden + vocabulary * (hidden + 1) + encoder + decoder + attention


@pytest.mark.parametrize(("vocabulary", "hidden", "layers"), [(11, 4, 2), (7, 6, 3), (13, 8, 4)])
def test_parameters_are_those_counted_by_hand(vocabulary: int, hidden: int, layers: int) -> None:
    model = GNMT(vocabulary, vocabulary, hidden_size=hidden, encoder_layers=layers, decoder_layers=layers, shared=True)
    assert sum(p.numel() for p in model.parameters()) == by_hand(vocabulary, hidden, layers, biases=1)


def test_the_published_size() -> None:
    """What NVIDIA's program prints of its own, with two biases a gate, is the second number."""
    base = PRESETS["gnmt"]
    assert (base.hidden_size, base.layers, base.shared) == (1024, 4, True)
    assert by_hand(32320, 1024, 4, biases=1) == 160_634_433
    assert by_hand(32320, 1024, 4, biases=2) == 160_671_297


def lstm_of(layer: Recurrent, other: Recurrent | None = None) -> nn.LSTM:
    """torch's own LSTM, with the weights of a layer or of one for each direction."""
    gates = layer.gates
    made = nn.LSTM(gates.input_size, gates.hidden_size, bidirectional=other is not None).double()
    with torch.no_grad():
        for suffix, one in (("", layer), ("_reverse", other)):
            if one is not None:
                getattr(made, f"weight_ih_l0{suffix}").copy_(one.gates.input_to_gates.weight)
                getattr(made, f"weight_hh_l0{suffix}").copy_(one.gates.hidden_to_gates.weight)
                getattr(made, f"bias_ih_l0{suffix}").copy_(one.gates.bias)
                getattr(made, f"bias_hh_l0{suffix}").zero_()
    return made


def as_described(model: GNMT, batch: PairBatch) -> Tensor:
    """Logits by torch's own LSTMs: packed and bidirectional below, residual from the third layer on."""
    packed = pack_padded_sequence(model.source_embedding(batch.source_TB), batch.source_length_B, enforce_sorted=False)
    x, _ = pad_packed_sequence(lstm_of(model.encoder.onward, model.encoder.backward_)(packed)[0])
    for index, layer in enumerate(model.encoder.layers):
        h = lstm_of(layer)(x)[0]  # type: ignore[arg-type]
        x = h if index == 0 else x + h
    y = lstm_of(model.decoder.first)(model.target_embedding(batch.input_UB))[0]
    context, _ = model.decoder.attention(y, model.decoder.attention.memory(x, batch.source_length_B))
    for index, layer in enumerate(model.decoder.layers):
        h = lstm_of(layer)(torch.cat([y, context], 2))[0]  # type: ignore[arg-type]
        y = h if index == 0 else y + h
    return y @ model.output.weight.T + model.output.bias


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_what_torch_makes_of_the_description(corpus: PairCorpus, smoothing: float) -> None:
    model, batch = model_for(corpus), batch_of(corpus)
    logits = as_described(model, batch)
    real = torch.arange(len(batch.target_UB)).unsqueeze(1) < batch.target_length_B
    assert int(real.sum()) == batch.targets < real.numel()
    expected = nn.functional.cross_entropy(
        logits[real], batch.target_UB[real], reduction="sum", label_smoothing=smoothing
    )
    nats, smoothed = model.loss(batch, smoothing)
    torch.testing.assert_close(smoothed, expected)
    torch.testing.assert_close(nats, nn.functional.cross_entropy(logits[real], batch.target_UB[real], reduction="sum"))
    smoothed.backward()
    own = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    as_described_grad = torch.autograd.grad(
        nn.functional.cross_entropy(
            as_described(model, batch)[real], batch.target_UB[real], reduction="sum", label_smoothing=smoothing
        ),
        [model.output.weight, model.source_embedding.weight, model.decoder.attention.key.weight],
        allow_unused=True,
    )
    # torch's LSTMs are copies, so that what lies below them in the graph is reached through their inputs alone
    torch.testing.assert_close(own["output.weight"], as_described_grad[0])
    torch.testing.assert_close(own["source_embedding.weight"], as_described_grad[1])
    torch.testing.assert_close(own["decoder.attention.key.weight"], as_described_grad[2])


def test_a_batch_of_several_lengths_is_its_pairs_one_at_a_time(corpus: PairCorpus) -> None:
    model, stream = model_for(corpus), corpus.split("train")
    batch = batch_of(corpus)
    assert len(set(batch.source_length_B.tolist())) > 3
    together, _ = model.loss(batch)
    together.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    alone = []
    for index in range(9):
        one, _ = model.loss(gather(stream, torch.tensor([index]).numpy(), corpus.bos))
        one.backward()
        alone.append(one.detach())
    torch.testing.assert_close(together.detach(), torch.stack(alone).sum())
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)
    torch.testing.assert_close(model.eval().nats(batch).detach(), torch.stack(alone))


def test_what_padding_holds_changes_nothing(corpus: PairCorpus) -> None:
    model, batch = model_for(corpus), batch_of(corpus)
    filled = {}
    for name, lengths in (("source_TB", batch.source_length_B), ("input_UB", batch.target_length_B)):
        ids = torch.cat([getattr(batch, name), torch.zeros(2, len(lengths), dtype=torch.long)])
        ids[torch.arange(len(ids)).unsqueeze(1) >= lengths] = 3
        filled[name] = ids
    filled["target_UB"] = torch.cat([batch.target_UB, torch.full((2, len(batch.target_length_B)), 2)])
    other = replace(batch, **filled)
    assert not torch.equal(other.source_TB[: len(batch.source_TB)], batch.source_TB)
    torch.testing.assert_close(model.loss(other, 0.1), model.loss(batch, 0.1), rtol=0, atol=0)


def test_step_by_step_is_all_at_once(corpus: PairCorpus) -> None:
    model, batch = model_for(corpus).eval(), batch_of(corpus)
    with torch.no_grad():
        memory = model.encode(batch.source_TB, batch.source_length_B)
        whole, _, weights = model.decode(batch.input_UB, memory)
        state, steps, looks = None, [], []
        for word_1B in batch.input_UB.split(1):
            h, state, look = model.decode(word_1B, memory, state)
            steps.append(h)
            looks.append(look)
    torch.testing.assert_close(torch.cat(steps), whole)
    torch.testing.assert_close(torch.cat(looks), weights)


def test_steps_reversed_twice_are_as_they_were() -> None:
    x, lengths = torch.randn(7, 4, 3), torch.tensor([7, 1, 4, 6])
    torch.testing.assert_close(reversed_steps(reversed_steps(x, lengths), lengths), x)


def test_dropout_is_for_training_only(corpus: PairCorpus) -> None:
    model, batch = model_for(corpus, dropout=0.5), batch_of(corpus)
    assert not torch.equal(model.loss(batch)[0], model.loss(batch)[0])
    model.eval()
    torch.testing.assert_close(model.loss(batch)[0], model.nats(batch).sum())


def test_a_shared_embedding(tmp_path: Path) -> None:
    from overnight.data.pairs.settings import PairSettings

    joint = PairCorpus(write_pairs(tmp_path / "joint", settings=PairSettings(joint=True)))
    model = model_for(joint, shared=True)
    assert model.target_embedding is model.source_embedding
    model.loss(batch_of(joint))[0].backward()
    assert model.source_embedding.weight.grad is not None


def test_what_is_refused(corpus: PairCorpus) -> None:
    with pytest.raises(UserError, match="encoder cannot have layers=1"):
        model_for(corpus, encoder_layers=1)
    with pytest.raises(UserError, match="decoder cannot have layers=1"):
        model_for(corpus, decoder_layers=1)
    with pytest.raises(UserError, match=r"dropout=1\.0 is not a probability"):
        model_for(corpus, dropout=1.0)
    with pytest.raises(UserError, match="cannot be shared by 4 words and 5 words"):
        GNMT(4, 5, shared=True)
    with pytest.raises(UserError, match=r"smoothing=1\.0 cannot be"):
        TranslationTask(model_for(corpus), smoothing=1.0)
