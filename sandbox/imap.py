"""IMAP as outlook.office365.com speaks it on port 993, and as it did while LOGIN still worked there."""

import base64
import re

from sandbox.script import NO_BASIC_AUTH, SIGNING_OFF
from sandbox.wire import Connection, HungUp, Refused, plain_credentials

GREETING = (
    "* OK The Microsoft Exchange IMAP4 service is ready. "
    "[QQBNADAAUABSADAAMQBDAEEAMAAxADIAMwAuAGUAdQByAHAAcgBkADAAMQA=]"
)
CAPABILITIES = (
    "IMAP4 IMAP4rev1 AUTH=PLAIN AUTH=XOAUTH2 SASL-IR UIDPLUS ID UNSELECT CHILDREN IDLE NAMESPACE LITERAL+"
)
MODERN_GREETING = (
    "* OK Microsoft Exchange IMAP4 service ready. 6f1c0f4e-5d3a-4b0e-9a51-2f7c8f0c1b7d "
    "(tcpproxy/15.21.0406.000 BACKENDAUTHENTICATE)"
)
MODERN_CAPABILITIES = (
    "IMAP4 IMAP4rev1 AUTH=XOAUTH2 LOGINDISABLED SASL-IR UIDPLUS MOVE ID UNSELECT "
    "CHILDREN IDLE NAMESPACE LITERAL+"
)
TURNED_AWAY = "* BYE Server Unavailable. 15"
CONTINUE = "+ Ready for additional command text."
WRONG_STATE = "BAD Command received in Invalid state."
BAD_ARGUMENT = "BAD Command Argument Error. 12"
CANCELLED = "BAD AUTHENTICATE cancelled."
AUTHENTICATE_FAILED = "NO AUTHENTICATE failed."
LONGEST_LITERAL = 65536
# RFC 3501, 9: a quoted string, a literal (RFC 7888 for the `+`) or an atom. Like Exchange, it accepts bytes
# above 127 in a quoted string but not in an atom.
ARGUMENT = re.compile(
    rb' (?:"(?P<quoted>(?:[^"\\]|\\["\\])*)"'
    rb"|\{(?P<size>\d{1,9})(?P<unasked>\+?)\}$"
    rb'|(?P<atom>[^\x00-\x20\x7f-\xff"(){%*\\]+))'
)


class Imap(Connection):
    """One IMAP session."""

    protocol = "imap"
    goodbyes = ("* BYE",)
    too_many = "* BYE Too many connections from your address."

    tag = "*"

    async def converse(self) -> None:
        await self.secure()
        greeting = MODERN_GREETING if self.login_disabled() else GREETING
        busy = self.service.server.name == "greeting-busy"
        await self.say("greeting", TURNED_AWAY if busy else greeting)
        while True:
            tag, _, command = (await self.line()).partition(b" ")
            self.tag = tag.decode("ascii", "replace") or "*"
            verb, _, _ = command.partition(b" ")
            try:
                await self.obey(verb.upper(), command[len(verb) :])
            except Refused as refusal:
                await self.answer("", str(refusal))

    async def obey(self, verb: bytes, arguments: bytes) -> None:
        if self.logged_in and self.mailbox.play.after_login and verb != b"LOGOUT":
            raise Refused(self.mailbox.play.after_login)
        match verb:
            case b"CAPABILITY":
                await self.answer(
                    "capability", f"* CAPABILITY {self.service.offers}", "OK CAPABILITY completed."
                )
            case b"NOOP":
                await self.answer("", "OK NOOP completed.")
            case b"ID":
                await self.answer(
                    "", '* ID ("name" "Microsoft.Exchange.Imap4.Imap4Server")', "OK ID completed"
                )
            case b"LOGOUT":
                await self.answer("", SIGNING_OFF, "OK LOGOUT completed.")
            case b"LOGIN" | b"AUTHENTICATE" if self.logged_in:
                raise Refused(WRONG_STATE)
            case b"LOGIN":
                await self.login(arguments)
            case b"AUTHENTICATE":
                await self.authenticate(arguments)
            case b"NAMESPACE" | b"LIST" if not self.logged_in:
                raise Refused(WRONG_STATE)
            case b"NAMESPACE":
                await self.answer("", '* NAMESPACE (("" "/")) NIL NIL', "OK NAMESPACE completed.")
            case b"LIST":
                await self.answer("", r'* LIST (\Marked \HasNoChildren) "/" INBOX', "OK LIST completed.")
            case _:
                raise Refused("BAD Command Error. 12")

    async def answer(self, stage: str, *lines: str) -> None:
        """Send these lines, with the client's tag before each line that does not start with `*` or `+`."""
        tagged = (line if line[0] in "*+" else f"{self.tag} {line}" for line in lines)
        await self.say(self.stage(stage), *tagged)

    def login_disabled(self) -> bool:
        return "LOGINDISABLED" in self.service.offers.split()

    async def login(self, text: bytes) -> None:
        arguments = await self.arguments(text)
        if len(arguments) != 2:
            raise Refused(BAD_ARGUMENT)
        name, password = arguments
        await self.log_in(name, password, "LOGIN")

    async def authenticate(self, text: bytes) -> None:
        arguments = await self.arguments(text)
        if not 1 <= len(arguments) <= 2 or arguments[0].upper() not in (b"PLAIN", b"XOAUTH2"):
            raise Refused(AUTHENTICATE_FAILED)
        if len(arguments) == 1:
            await self.answer("", "+ ")
            arguments.append(await self.line())
        if arguments[1] == b"*":
            raise Refused(CANCELLED)
        if arguments[0].upper() == b"XOAUTH2":  # the stand-in accepts no tokens
            raise Refused(AUTHENTICATE_FAILED)
        try:
            name, password = plain_credentials(base64.b64decode(arguments[1], validate=True))
        except ValueError:
            raise Refused(BAD_ARGUMENT) from None
        await self.log_in(name, password, "AUTHENTICATE")

    async def log_in(self, name: bytes, password: bytes, verb: str) -> None:
        self.meet(name)
        lines = await self.check_password(password, f"OK {verb} completed.", f"NO {verb} failed.")
        if self.login_disabled():
            lines = (NO_BASIC_AUTH,)
        await self.answer("auth", *lines)
        self.logged_in = any(line.startswith("OK ") for line in lines)

    async def arguments(self, text: bytes) -> list[bytes]:
        """The arguments of a command, including its literals.

        Raises:
            Refused: If the arguments are not valid.
        """
        found: list[bytes] = []
        while text:
            match = ARGUMENT.match(text)
            if match is None:
                raise Refused(BAD_ARGUMENT)
            if match["size"] is not None:
                found.append(await self.literal(int(match["size"]), asked=not match["unasked"]))
                text = await self.line()
                continue
            quoted, atom = match["quoted"], match["atom"]
            found.append(re.sub(rb"\\(.)", rb"\1", quoted) if atom is None else atom)
            text = text[match.end() :]
        return found

    async def literal(self, size: int, *, asked: bool) -> bytes:
        if size > LONGEST_LITERAL:
            raise HungUp
        if asked:
            await self.answer("", CONTINUE)
        return await self.reader.readexactly(size)
