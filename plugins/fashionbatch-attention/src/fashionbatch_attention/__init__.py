"""Attention in place of average pooling for fashionbatch; see :mod:`.plugin`."""

__version__ = "0.1.0"
