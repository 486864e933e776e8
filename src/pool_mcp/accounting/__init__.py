"""Prices, periods and comparisons; pure."""
