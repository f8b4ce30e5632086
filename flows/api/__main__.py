"""`python -m flows.api`: the same as `outlook-import serve`."""

from __future__ import annotations

from flows.cli.app import door

if __name__ == "__main__":
    raise SystemExit(door("serve"))
