"""The tasks, one folder each: they turn input files into output files. Each registers itself in its `__init__`."""
