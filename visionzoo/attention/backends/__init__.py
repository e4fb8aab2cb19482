"""The attention backends, each a class with `supports` and `forward`."""
