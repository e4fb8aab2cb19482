"""The commands `visionzoo fit|validate|test|predict` (`run`), and what the training modules of all systems share."""
