"""torchcam's methods as visualizers for fashionbatch; see :mod:`.plugin` and :mod:`.methods`."""

__version__ = "0.1.0"
