"""The tasks, one folder each: input files in, output files out. Each registers itself in its `__init__`."""
