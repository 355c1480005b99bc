"""Text, or ids that someone made, → a corpus of words: a vocabulary and shards of ids; and the batches of it."""

from overnight.data.words.corpus import WordCorpus, WordStream
from overnight.data.words.vocabulary import Vocabulary

__all__ = ["Vocabulary", "WordCorpus", "WordStream"]
