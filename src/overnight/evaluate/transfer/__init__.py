"""Transfer: what a byte model's features know of labelled texts.

`study` fits L1 logistic regression on features and measures it; `Classifier` is what it gives, saved and loaded.
"""

from overnight.evaluate.transfer.classifier import Classifier, FeatureKind
from overnight.evaluate.transfer.study import Study, TransferSettings, study

__all__ = ["Classifier", "FeatureKind", "Study", "TransferSettings", "study"]
