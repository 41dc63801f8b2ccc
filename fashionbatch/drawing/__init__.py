"""What pictures have in common: letters, small images, file names."""
