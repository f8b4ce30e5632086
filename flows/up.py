"""`python -m flows.up`: the same as `outlook-import up`."""

from __future__ import annotations

from flows.cli.app import door

if __name__ == "__main__":
    raise SystemExit(door("up"))
