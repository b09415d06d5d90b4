"""The machine: devices and precision, and what the bits of a result depend on."""
