"""The task commands, one file each. Nothing heavy is imported before a command runs, so that --help is instant."""
