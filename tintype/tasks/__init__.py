"""One file for each job, with the same methods in the same order: classify."""
