"""The demo and the loopback stand-in that it runs against."""
