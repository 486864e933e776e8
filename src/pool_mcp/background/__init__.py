"""What a server does by itself now and then."""
