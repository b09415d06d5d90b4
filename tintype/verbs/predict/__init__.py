"""Predict photos with a finished model of any task: decoded, answered in batches, written as rows.

What an answer is, and how a row of it looks, belongs to the task (`tasks/NAME/predict.py`). Nothing
here needs torch.
"""
