"""An empty CSV to fill in: `import-template`."""

from __future__ import annotations

import argparse
import codecs
import sys
from pathlib import Path

from flows.managing.output import DONE, USAGE, Areas, add_action, cell
from schemas.headers import FIELDS
from schemas.settings import Settings

# The mark tells Excel that the file is UTF-8, when it opens it and when it saves it again.
TEMPLATE = codecs.BOM_UTF8 + f"{','.join(FIELDS)}\r\n".encode()


def add_arguments(areas: Areas) -> None:
    about = "Write an empty CSV with the header that the import reads; a spreadsheet opens it as UTF-8."
    parser = add_action(areas, "import-template", about, write_template)
    parser.add_argument(
        "path",
        nargs="?",
        type=Path,
        metavar="PATH",
        help="The file, which must not exist yet; without it, the CSV goes to standard output.",
    )


def write_template(options: argparse.Namespace, _settings: Settings) -> int:
    path: Path | None = options.path
    if path is None:
        sys.stdout.buffer.write(TEMPLATE)
        return DONE
    try:
        path.touch(mode=0o600, exist_ok=False)  # there will be passwords in it
        path.write_bytes(TEMPLATE)
    except FileExistsError:
        sys.stderr.write(f"{cell(path)} exists and was left as it is: name another file.\n")
        return USAGE
    except OSError as error:
        sys.stderr.write(f"{cell(path)} cannot be written: {error.strerror}.\n")
        return USAGE
    sys.stdout.write(f"Wrote {cell(path)}: fill in a row for each mailbox and import it.\n")
    return DONE
