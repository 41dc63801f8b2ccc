"""Training: end to end, or the head alone on bottleneck features."""
