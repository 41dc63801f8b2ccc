"""timm's classification networks for fashionbatch; see :mod:`.plugin` and :mod:`.networks`."""

__version__ = "0.1.0"
