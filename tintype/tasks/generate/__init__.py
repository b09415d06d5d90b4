"""Generation: make new images like those of a data set."""
