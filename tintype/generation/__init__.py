"""What generation stands on: noise by seed, objectives, augmentation that gradients pass, signs of
trouble, distances.
"""
