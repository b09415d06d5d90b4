"""In a study, regressions that start from a backbone may be given other weights."""

from tintype.tasks.backbone_weights import with_weights

__all__ = ["with_weights"]
