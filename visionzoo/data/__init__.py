"""Data sets and loaders shared by several systems."""
