"""Numbers that both the command, which loads nothing heavy, and the pipeline state."""

MIN_SCORE = 0.7
"""Default of the lowest score of duplicates, whose images are then compared."""

MIN_SCORE_ALONE = 0.95
"""The same if only the scores decide."""
