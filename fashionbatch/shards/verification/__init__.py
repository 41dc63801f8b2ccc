"""Checking every byte of a data set."""
