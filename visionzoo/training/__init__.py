"""The commands `visionzoo fit|validate|test|predict` (`run`), and shared parts of the training modules of all systems."""
