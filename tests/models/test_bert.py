"""BERT: sizes as published, only what is hidden is projected, packed rows see themselves only."""

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.reviews import write_reviews

from overnight.data.masked.batches import MaskedBatches, masked_batches
from overnight.errors import UserError
from overnight.models.bert import BERT
from overnight.recipes.bert_presets import PRESETS
from overnight.tasks.pretraining import PretrainingTask

pytest.importorskip("transformers", reason="needs the extra bert")


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("bert") / "corpus", train=40)


def batches(reviews: Path, **settings: Any) -> MaskedBatches:
    return masked_batches(corpus=str(reviews), lanes=6, seed=0, short=0.0, **{"length": 64, **settings})


def small(**settings: Any) -> BERT:
    torch.manual_seed(0)
    return BERT(15, **{"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_position": 64, **settings}).eval()


def parameters(vocabulary: int, width: int, layers: int, positions: int = 512) -> int:
    """Counted by hand: embeddings and their norm, blocks, pooler, and the two heads, of which one is tied."""
    embeddings = (vocabulary + positions + 2) * width + 2 * width
    block = 4 * (width * width + width) + (8 * width * width + 5 * width) + 4 * width
    pooler = width * width + width
    words = width * width + width + 2 * width + vocabulary
    return embeddings + layers * block + pooler + words + 2 * width + 2


@pytest.mark.parametrize(("preset", "count"), [("tiny", 4_433_468), ("base", 110_106_428), ("large", 336_226_108)])
def test_sizes_with_the_published_vocabulary(preset: str, count: int) -> None:
    base = PRESETS[preset]
    with torch.device("meta"):
        model = BERT(30_522, hidden_size=base.hidden_size, num_layers=base.layers, num_heads=base.heads)
    assert sum(p.numel() for p in model.parameters()) == count == parameters(30_522, base.hidden_size, base.layers)


def test_only_what_is_hidden_is_projected_and_the_same(reviews: Path) -> None:
    model, batch = small(), batches(reviews).at(0)
    words_MV, segments_S2 = model(batch)
    assert (words_MV.shape, segments_S2.shape) == ((batch.targets, 15), (6, 2))
    everything = model.network(
        input_ids=batch.input_BT, attention_mask=batch.sequence_BT > 0, token_type_ids=batch.type_BT
    )
    wanted = everything.prediction_logits.flatten(0, 1)[batch.masked_M]
    torch.testing.assert_close(words_MV, wanted)
    torch.testing.assert_close(segments_S2, everything.seq_relationship_logits)


def test_packed_sequences_do_not_see_each_other(reviews: Path) -> None:
    """Each sequence of a packed row gives what it gives in a row of its own, gradients too."""
    made = batches(reviews, packed=True)
    rows = [made.row(row, row) for row in range(made.rows - 4, made.rows)]  # small chunks come last
    assert max(map(len, rows)) > 1
    alone = batches(reviews)
    found = []
    for batch in (made.batch(rows), alone.batch([[one] for row in rows for one in row])):
        model = small()
        words_M, segments_S = model.nats(batch)
        (words_M.sum() + segments_S.sum()).backward()
        found.append((words_M, segments_S, [p.grad for p in model.parameters()]))
    for one, two in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(one, two)
    for mine, other in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_the_loss_adds_up_over_micro_batches(reviews: Path) -> None:
    made = batches(reviews)
    whole, parts = small(), small()
    for model, shares in ((whole, [(0, 6)]), (parts, [(0, 2), (2, 4)])):
        task = PretrainingTask(model, next_sentence=4.0)
        batch = [made.at(0, first, count) for first, count in shares]
        count = sum(task.count(one) for one in batch)
        for one in batch:
            loss = task(one, {})
            assert loss.objective is not None
            (loss.objective / count).backward()
    for mine, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_recomputing_changes_nothing(reviews: Path) -> None:
    batch, gradients = batches(reviews).at(0), []
    for recompute in (False, True):
        model = small(recompute=recompute, dropout=0.0).train()
        model.nats(batch)[0].sum().backward()
        gradients.append([p.grad for p in model.network.bert.encoder.parameters()])
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other)


def test_what_is_refused(reviews: Path) -> None:
    with pytest.raises(UserError, match="3 heads cannot share 16 units"):
        small(num_heads=3)
    with pytest.raises(UserError, match="longer than the 16 positions of the model"):
        small(max_position=16)(batches(reviews).at(0))
    with pytest.raises(UserError, match="next_sentence=-1"):
        PretrainingTask(small(), next_sentence=-1.0)
