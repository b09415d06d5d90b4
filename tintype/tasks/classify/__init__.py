"""Classification: say which of several classes an image shows."""
