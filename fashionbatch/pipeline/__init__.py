"""From image files to batches: decode, fit to the input size, augment, stack."""
