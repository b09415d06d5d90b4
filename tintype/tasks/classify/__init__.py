"""Classify images."""
