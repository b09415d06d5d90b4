"""Data sets whose targets are numbers."""
