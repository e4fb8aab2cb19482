"""Demo pages, one per task (`visionzoo demo`)."""
