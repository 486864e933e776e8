"""The agents' door: MCP."""
