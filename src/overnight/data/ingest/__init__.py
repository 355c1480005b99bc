"""Text files of many formats → a corpus folder of byte shards, in constant memory."""

from overnight.data.ingest.joining import join_parts
from overnight.data.ingest.pieces import parse_part
from overnight.data.ingest.preparation import prepare
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import PrepareSettings

__all__ = ["PrepareSettings", "Progress", "join_parts", "parse_part", "prepare"]
