"""All that is known of the Claude Code CLI."""
