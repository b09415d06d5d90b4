"""Regression: predict one or several numbers for each image."""
