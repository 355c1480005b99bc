"""Parallel text → a corpus of sentence pairs: two vocabularies and shards of ids; and the batches of it."""

from overnight.data.pairs.corpus import PairCorpus, PairStream

__all__ = ["PairCorpus", "PairStream"]
