"""Predicting, whatever computes: what a classifier is, and how it goes through many files.

Nothing here needs torch.
"""
