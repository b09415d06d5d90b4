"""Super-resolution: enlarge photos, sharper than interpolation does."""
