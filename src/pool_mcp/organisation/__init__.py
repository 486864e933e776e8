"""The organization's own reports."""
