"""`template`: an empty CSV file to fill in."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.cli.exit_codes import DONE
from flows.cli.output import cell, wrong_usage
from tasks.configuration import load_settings
from tasks.hints import command

# The mark tells Excel that the file is UTF-8, when it opens it and when it saves it again.
TEMPLATE = codecs.BOM_UTF8 + b"email,password,name,totpsecret\r\n"


def template(
    path: Annotated[
        Path | None,
        Parameter(name="PATH", help="The file, which must not exist yet; by default standard output."),
    ] = None,
    /,
) -> int:
    """Write an empty CSV file with the header that the import reads; a spreadsheet opens it as UTF-8."""
    load_settings()
    if path is None:
        sys.stdout.buffer.write(TEMPLATE)
        return DONE
    try:
        path.touch(mode=0o600, exist_ok=False)  # there will be passwords in it
        path.write_bytes(TEMPLATE)
    except FileExistsError:
        return wrong_usage(f"{cell(path)} exists and was left as it is: name another file.")
    except OSError as error:
        return wrong_usage(f"{cell(path)} cannot be written: {error.strerror}.")
    sys.stdout.write(
        f"Wrote {cell(path)}. Fill in a row for each mailbox, then run `{command('import', path)}`.\n"
    )
    return DONE
