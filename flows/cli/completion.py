"""`completion`: tab completion for a shell."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from flows.cli.exit_codes import DONE


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(name="SHELL", help="The shell.")], /
) -> int:
    """Print the completion script of a shell, for example: eval "$(outlook-import completion bash)"."""
    from flows.cli.app import build

    sys.stdout.write(build().generate_completion(shell=shell))
    return DONE
