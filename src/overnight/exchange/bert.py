"""A BERT that was trained here → a folder that ``transformers`` reads with ``from_pretrained``."""

import json
from pathlib import Path

import torch

from overnight.data.masked import MaskedCorpus
from overnight.data.masked.corpus import TOKENIZER_FILE, VOCABULARY_FILE
from overnight.data.masked.wordpiece import CLS, MASK, PAD, SEP, UNK
from overnight.errors import UserError
from overnight.exchange.check import Difference, accept
from overnight.models.bert import BERT, BERTClassifier, transformers
from overnight.models.bert_span import BERTSpan
from overnight.train.checkpoint import load_model


def write_bert(
    run: Path, folder: Path, which: str = "best", corpus: Path | None = None
) -> tuple[int, dict[str, float]]:
    """Write weights, configuration and tokenizer, read them back, and compare what they compute.

    Args:
        run: a run of bert, bert-classify or bert-squad.
        folder: where to; it exists.
        which: ``best``, ``last`` or a step.
        corpus: whose tokenizer; the one that the run says unless given.

    Returns:
        The checkpoint's step, and the largest absolute difference of the hidden states.

    Raises:
        UserError: if the run is of another model, its corpus is gone, or what is read back computes something else.
    """
    loaded = load_model(run, which)
    model = loaded.model
    if not isinstance(model, (BERT, BERTClassifier, BERTSpan)):
        raise UserError(f"{run} holds a {type(model).__name__}, not a BERT.", "Choose another --to.")
    kwargs = loaded.run["run"].get("data", {}).get("kwargs", {})
    named = corpus or kwargs.get("tokenizer_of") or loaded.corpus
    if named is None:
        raise UserError(f"{run} does not say which corpus it was trained on.", "Restore its run.json from a copy.")
    opened = MaskedCorpus(named)
    if opened.vocabulary_digest != loaded.run.get("derived", {}).get("vocabulary_digest"):
        raise UserError(
            f"The word pieces of {named} are not those that {run} was trained with.", "Restore the corpus of the run."
        )
    model.save_pretrained(folder)
    pieces = opened.pieces
    (folder / TOKENIZER_FILE).write_text(_with_marks(pieces.content, pieces.cls, pieces.sep), encoding="utf-8")
    (folder / VOCABULARY_FILE).write_text("\n".join(pieces.words) + "\n", encoding="utf-8")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": int(model.network.config.max_position_embeddings),
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    again = type(model.network).from_pretrained(folder).eval()
    ids = torch.arange(min(64, opened.vocab_size)).unsqueeze(0)
    with torch.no_grad():
        one, two = (network.bert(input_ids=ids).last_hidden_state for network in (model.network, again))
    apart = accept("What was read back", Difference(float((one - two).abs().max()), float(one.abs().max())), 0.0)
    return loaded.step, {"model.safetensors": apart}


def _with_marks(content: str, cls: int, sep: int) -> str:
    """The tokenizer with BERT's marks around a text, and around two."""
    assert transformers()
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer.from_str(content)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}", pair=f"{CLS} $A {SEP} $B:1 {SEP}:1", special_tokens=[(CLS, cls), (SEP, sep)]
    )
    found: str = tokenizer.to_str()
    return found
