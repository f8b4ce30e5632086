"""Run a command against the Outlook stand-in: `python -m sandbox [OPTIONS] [COMMAND …]`.

Without a command it prints what to export and stays up until SIGINT or SIGTERM. Unix only: it forwards
both signals to the command.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import trustme

from sandbox.outlook import Outlook
from sandbox.script import Account, ScriptError, ServerFaults, read_accounts, read_servers, seconds_of

ACCOUNTS = Path(__file__).resolve().parent.parent / "data" / "samples" / "sandbox.csv"
EVERYONE_ELSE = "*"
DATABASE_URL = "OUTLOOK_IMPORT_DATABASE_URL"
CANNOT_START = 127
# A command that Ctrl-C has reached as well gets this long before it is told a second time.
TERMINAL_SECONDS = 5.0


def main() -> int:
    options = _parser().parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    try:
        mailboxes = read_accounts(options.accounts)
        servers = read_servers(options.servers) if options.servers else {}
    except ScriptError as error:
        _tell(str(error))
        return 2
    return asyncio.run(_serve(mailboxes, servers, options.delay, command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="An Outlook stand-in on loopback.")
    parser.add_argument(
        "--accounts", type=Path, default=ACCOUNTS, metavar="FILE", help="CSV: email,password,smtp,imap."
    )
    parser.add_argument(
        "--servers", type=Path, metavar="FILE", help="CSV: domain,smtp,imap; servers of their own."
    )
    parser.add_argument(
        "--delay", type=_seconds, default=0.0, metavar="SECONDS", help="Wait so long before each reply."
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="What to run against it."
    )
    return parser


def _seconds(text: str) -> float:
    try:
        return seconds_of(text)
    except ScriptError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


async def _serve(
    mailboxes: Mapping[str, Account], servers: Mapping[str, ServerFaults], delay: float, command: list[str]
) -> int:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    async with _outlooks(mailboxes, servers, delay) as environment:
        if command:
            return await _run(command, environment, signals)
        sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
        sys.stdout.flush()
        await signals.get()
        return 0


@asynccontextmanager
async def _outlooks(
    mailboxes: Mapping[str, Account], servers: Mapping[str, ServerFaults], delay: float
) -> AsyncIterator[dict[str, str]]:
    """Servers for everyone, and others for each of these domains; yields the variables that say where."""
    ca = trustme.CA()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outlook-sandbox-")))
        outlooks = {
            domain: await stack.enter_async_context(
                Outlook(mailboxes, server=faults, delay=delay, ca=ca, folder=folder)
            )
            for domain, faults in {EVERYONE_ELSE: ServerFaults(), **servers}.items()
        }
        ports = {
            domain: {"smtp": outlook.address("smtp"), "imap": outlook.address("imap")}
            for domain, outlook in outlooks.items()
        }
        everyone = ports[EVERYONE_ELSE]
        _tell(f"{len(mailboxes)} mailboxes, SMTP at {everyone['smtp']}, IMAP at {everyone['imap']}.")
        environment = {
            "OUTLOOK_IMPORT_SERVERS": json.dumps(ports),
            "OUTLOOK_IMPORT_CA_FILE": str(outlooks[EVERYONE_ELSE].ca_file),
        }
        # A try-out never lands in the user's own database, unless they say so.
        if not os.environ.get(DATABASE_URL):
            environment[DATABASE_URL] = f"sqlite:///{folder.as_posix()}/mailboxes.db"
        yield environment


async def _run(
    command: list[str], environment: Mapping[str, str], signals: asyncio.Queue[signal.Signals]
) -> int:
    """Run the command to its end; its exit status, or 128 + n if signal n ended it, as in a shell."""
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
    except OSError as error:
        _tell(f"{command[0]} cannot be started: {error.strerror}.")
        return CANNOT_START
    forwarding = asyncio.create_task(_forward(signals, process))
    try:
        status = await process.wait()
    finally:
        forwarding.cancel()
    return status if status >= 0 else 128 - status


async def _forward(signals: asyncio.Queue[signal.Signals], process: asyncio.subprocess.Process) -> None:
    while True:
        number = await signals.get()
        # Ctrl-C goes to both of us. Told twice at once, a Python program would break off its clean-up.
        wait = TERMINAL_SECONDS if number == signal.SIGINT and _in_foreground() else 0.0
        asyncio.get_running_loop().call_later(wait, _send, process, number)


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _in_foreground() -> bool:
    """Whether a terminal's Ctrl-C reaches this process, and so the command as well."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def _tell(sentence: str) -> None:
    sys.stderr.write(f"sandbox: {sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
