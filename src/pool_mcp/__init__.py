"""pool-mcp: ask Claude under whichever of your own subscriptions has the most room, and keep the books."""

__version__ = "0.1.0"
