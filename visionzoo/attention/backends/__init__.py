"""The backends of attention, each one class with `supports` and `forward`."""
