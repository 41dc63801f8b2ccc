"""Shards: WebDataset tar files with an index that makes reading exact and selective."""
