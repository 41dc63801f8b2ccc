"""Sharpness-aware minimization for fashionbatch; see :mod:`.plugin` and :mod:`.minimization`."""

__version__ = "0.1.0"
