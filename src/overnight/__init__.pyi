from overnight.evaluate.features import ByteFeatures as ByteFeatures
from overnight.evaluate.load import load_byte_model as load

__version__: str
__all__ = ["ByteFeatures", "__version__", "load"]
