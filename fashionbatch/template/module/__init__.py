"""Components for fashionbatch; see the README for what they are."""

__version__ = "0.1.0"
