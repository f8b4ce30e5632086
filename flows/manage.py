"""`python -m flows.manage`: the same as `outlook-import`."""

from __future__ import annotations

from flows.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
