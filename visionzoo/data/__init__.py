"""What the data of several LightningModules shares."""
