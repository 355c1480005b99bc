"""overnight: train models in hours that used to take weeks. Importing this module loads no torch.

``overnight.load(run)`` is a trained model ready for use, ``overnight.ByteFeatures(run)`` a scikit-learn transformer,
``overnight.Recommender()`` a recommender to fit; they are imported when they are first asked for.
"""

import importlib

__version__ = "0.1.0"

# By name and not by import statement: what stands below this package imports it for the version.
_LATER = {
    "load": ("overnight.evaluate.load", "load_byte_model"),
    "ByteFeatures": ("overnight.evaluate.features", "ByteFeatures"),
    "Recommender": ("overnight.recommend.estimator", "Recommender"),
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LATER[name]
    value: object = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
