"""Which items are mislabelled: labels that the images contradict, twins, outliers."""
