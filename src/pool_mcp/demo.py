"""``pool-mcp demo``: the main job from end to end, on this machine alone."""


def run_demo() -> None:
    """Placeholder."""
