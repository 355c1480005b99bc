"""Trained byte models from elsewhere, and to elsewhere (docs/exchange.md).

``import_model`` makes a run folder of published weights; ``export_model`` writes a run's model in a format that other
programs read. Nothing is left behind unless the whole of it was written, read back and found to compute the same.
"""

from overnight.exchange.exporting import FORMATS, Exported, export_model
from overnight.exchange.importing import Imported, import_model

__all__ = ["FORMATS", "Exported", "Imported", "export_model", "import_model"]
