"""What networks are built from: layers, backbones, resampling, pretrained weights."""
