"""torchcam's methods as visualizers for fashionbatch; see :mod:`.plugin`."""

__version__ = "0.1.0"
