"""What a data set holds: numbers of its index, and pictures of it."""
