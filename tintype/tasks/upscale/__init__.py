"""Upscale images."""
