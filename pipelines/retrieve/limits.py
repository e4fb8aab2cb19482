"""Numbers that both the command, which loads nothing heavy, and the pipeline state."""

MIN_SCORE = 0.95
"""Default of the lowest score of duplicates."""
