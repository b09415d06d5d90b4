"""One file for each origin of images."""
