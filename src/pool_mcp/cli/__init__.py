"""The people's door: the command line."""
