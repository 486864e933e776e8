"""One ask, from validation to settlement."""
