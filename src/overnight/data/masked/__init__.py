"""Text → a corpus of sentences of word pieces; and the masked batches that BERT is pre-trained on."""

from overnight.data.masked.corpus import MaskedCorpus

__all__ = ["MaskedCorpus"]
