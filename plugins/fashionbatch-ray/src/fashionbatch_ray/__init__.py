"""Runs predictions and packing of fashionbatch on a Ray cluster."""

__version__ = "0.1.0"
