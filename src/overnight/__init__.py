"""overnight: train models in hours that used to take weeks. Importing this module loads no torch."""

__version__ = "0.1.0"
