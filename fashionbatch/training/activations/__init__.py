"""What the frozen part of a network gives, computed once: made, kept on the disk, read back."""
