"""Predictions and features on disk: one part per shard, merged into one HDF5 file."""
