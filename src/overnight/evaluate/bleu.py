"""BLEU by sacrebleu, with the signature that says how it was computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from overnight.errors import UserError


@dataclass(frozen=True)
class Bleu:
    """A corpus's BLEU.

    Attributes:
        bleu: 0 to 100.
        signature: of sacrebleu: references, case, tokenizer, smoothing, version.
        brevity_penalty: 1 where the translations are as long as the references.
        sentences: how many were compared.
    """

    bleu: float
    signature: str
    brevity_penalty: float
    sentences: int


def bleu_is_there() -> bool:
    """Whether sacrebleu is installed."""
    try:
        import sacrebleu.metrics  # noqa: F401 (whether it can be)
    except ImportError:
        return False
    return True


def corpus_bleu(translations: Sequence[str], references: Sequence[str], *, tokenize: str = "13a") -> Bleu:
    """Papineni et al. 2002 as sacrebleu computes it (Post 2018, arXiv 1804.08771), with one reference a sentence.

    Args:
        translations, references: as many sentences of both.
        tokenize: sacrebleu's tokenizer; ``13a`` is its own, ``none`` takes the words as they stand.

    Raises:
        UserError: if sacrebleu is not installed, the numbers differ or are 0, or there is no such tokenizer.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise UserError("BLEU needs the package sacrebleu.", "Install it with: pip install 'overnight[text]'") from None
    if len(translations) != len(references) or not references:
        raise UserError(
            f"There are {len(translations):,} translations for {len(references):,} references.",
            "Translate every sentence of the split.",
        )
    if tokenize not in BLEU.TOKENIZERS:
        raise UserError(f"sacrebleu has no tokenizer {tokenize!r}.", f"Choose one of {', '.join(BLEU.TOKENIZERS)}.")
    # force: the text may be tokenized already, which is said where it is reported
    metric = BLEU(tokenize=tokenize, force=True)
    found = metric.corpus_score(list(translations), [list(references)])
    return Bleu(float(found.score), str(metric.get_signature()), float(found.bp), len(references))
