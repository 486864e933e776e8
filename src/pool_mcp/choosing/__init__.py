"""What is left, which subscription is chosen, and what pace to keep; pure."""
