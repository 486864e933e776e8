"""The machine: locks, places, files, commands."""
