"""Demo pages, one a task (`visionzoo demo`)."""
