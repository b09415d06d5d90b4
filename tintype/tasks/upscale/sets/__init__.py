"""Origins of photos to upscale."""
