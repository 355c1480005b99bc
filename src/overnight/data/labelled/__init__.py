"""Texts with labels: csv, tsv, json, jsonl, parquet, or lines of `label text`; split into train, dev and test.

`labelled_set` reads them whole and checks the labels; `read_records` streams one file.
"""

from overnight.data.labelled.records import Record, find_source, read_records
from overnight.data.labelled.splits import Examples, LabelledSet, labelled_set, sorted_classes

__all__ = ["Examples", "LabelledSet", "Record", "find_source", "labelled_set", "read_records", "sorted_classes"]
