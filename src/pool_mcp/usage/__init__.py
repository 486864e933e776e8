"""What was spent, in and outside the pool: imports, reports, charts."""
