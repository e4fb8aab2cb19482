"""The systems, one folder each: network, checkpoints, training, data and model card."""
