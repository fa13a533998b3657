"""The command `quantum`."""
