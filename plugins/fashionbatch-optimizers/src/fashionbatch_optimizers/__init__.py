"""Optimizers of the last years for fashionbatch; see :mod:`.plugin` and :mod:`.factories`."""

__version__ = "0.1.0"
