"""What leaves the program: the shapes of tool results and of ``--json``, and every converter into them; pure."""
