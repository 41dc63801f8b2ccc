"""ONNX Runtime as an engine for fashionbatch; see :mod:`.plugin` and :mod:`.engine`."""

__version__ = "0.1.0"
