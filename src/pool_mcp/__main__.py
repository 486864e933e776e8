"""``python -m pool_mcp`` and a bundle's entry point: the same as the command ``pool-mcp``."""

from pool_mcp.cli import main

if __name__ == "__main__":
    main()
