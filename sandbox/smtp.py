"""SMTP as smtp.office365.com speaks it on port 587: STARTTLS, then AUTH LOGIN. It accepts no mail."""

import base64
import binascii

from sandbox.script import REPLIES
from sandbox.wire import Connection, Refused, plain_credentials

HOST = "AM3PR05CA0094.outlook.office365.com"
BANNER = f"220 {HOST} Microsoft ESMTP MAIL Service ready at Wed, 9 Nov 2022 10:09:41 +0000"
HELLO = f"{HOST} Hello [127.0.0.1]"
FEATURES = ("SIZE 157286400", "PIPELINING", "DSN", "ENHANCEDSTATUSCODES")
MORE_FEATURES = ("8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8")
READY = "220 2.0.0 SMTP server ready"
# What a man in the middle would inject: the EHLO reply of another server that offers only PLAIN.
INJECTED = (READY, "250-injected.example Hello [127.0.0.1]", "250 AUTH PLAIN")
LOGGED_IN = "235 2.7.0 Authentication successful"
USER_NAME = "334 VXNlcm5hbWU6"
PASSWORD = "334 UGFzc3dvcmQ6"  # noqa: S105  # the word itself, in base64
SEND_HELLO = "503 5.5.2 Send hello first"
UNKNOWN_MECHANISM = "504 5.7.4 Unrecognized authentication type"


class Smtp(Connection):
    """One SMTP session."""

    protocol = "smtp"
    goodbyes = ("221", "421")
    too_many = "421 4.7.0 localhost Error: too many connections from 127.0.0.1"

    encrypted = False
    greeted = False

    async def converse(self) -> None:
        busy = self.service.server.name == "greeting-busy"
        await self.say("greeting", REPLIES["smtp"]["service-not-available"] if busy else BANNER)
        while True:
            verb, _, argument = (await self.line()).partition(b" ")
            try:
                await self.obey(verb.upper(), argument.strip())
            except Refused as refusal:
                await self.say(self.stage(), str(refusal))

    async def obey(self, verb: bytes, argument: bytes) -> None:
        match verb:
            case b"EHLO":
                await self.ehlo()
            case b"HELO":
                self.greeted = True
                await self.say(self.stage("ehlo"), f"250 {HELLO}")
            case b"STARTTLS":
                await self.starttls()
            case b"AUTH":
                await self.auth(argument)
            case b"NOOP" | b"RSET":
                await self.say(self.stage(), "250 2.0.0 OK")
            case b"QUIT":
                await self.say(self.stage(), "221 2.0.0 Service closing transmission channel")
            case b"MAIL" if not self.greeted:
                raise Refused(SEND_HELLO)
            case b"MAIL" if not self.logged_in:
                raise Refused(REPLIES["smtp"]["not-authenticated"])
            case b"MAIL":
                raise Refused("554 5.3.2 This stand-in accepts no mail")
            case _:
                raise Refused("500 5.3.3 Unrecognized command")

    async def ehlo(self) -> None:
        self.greeted = True
        features = [HELLO, *FEATURES, *self.starttls_or_auth(), *MORE_FEATURES]
        lines = [f"250-{feature}" for feature in features[:-1]]
        await self.say(self.stage("ehlo"), *lines, f"250 {features[-1]}")

    def starttls_or_auth(self) -> list[str]:
        if self.encrypted:
            return [f"AUTH {self.service.offers}"] if self.service.offers else []
        return [] if self.service.server.name == "no-starttls" else ["STARTTLS"]

    async def starttls(self) -> None:
        if self.encrypted or self.service.server.name == "no-starttls":
            raise Refused("502 5.3.3 Command not implemented")
        if self.service.server.name == "starttls-refused":
            raise Refused("454 4.7.0 TLS not available due to temporary reason")
        await self.say("starttls", *(INJECTED if self.service.server.name == "injected" else (READY,)))
        await self.secure()
        # RFC 3207, 4.2: the server discards everything it learned before TLS.
        self.encrypted, self.greeted = True, False

    async def auth(self, argument: bytes) -> None:
        mechanism, _, initial = argument.partition(b" ")
        mechanism = mechanism.upper()
        if refusal := self.refusal(mechanism.decode("ascii", "replace")):
            if mechanism == b"PLAIN" and initial:
                self.overhear(*_credentials(initial))
            raise Refused(refusal)
        if mechanism == b"LOGIN":
            self.meet(_decoded(initial) if initial else await self.ask("", USER_NAME))
            password = await self.ask("user", PASSWORD)
        elif mechanism == b"PLAIN":
            name, password = _credentials(initial or await self.challenge("", "334 "))
            self.meet(name)
        else:  # XOAUTH2: the stand-in accepts no tokens
            raise Refused(REPLIES["smtp"]["identity-refused"])
        lines = await self.check_password(password, LOGGED_IN, REPLIES["smtp"]["wrong-credentials"])
        await self.say("auth", *lines)
        self.logged_in = lines[-1].startswith("235")

    def refusal(self, mechanism: str) -> str:
        if self.logged_in:
            return "503 5.5.2 Already authenticated"
        if not self.encrypted:
            return REPLIES["smtp"]["starttls-required"]
        if not self.greeted:
            return SEND_HELLO
        return "" if mechanism in self.service.offers.split() else UNKNOWN_MECHANISM

    async def ask(self, stage: str, prompt: str) -> bytes:
        return _decoded(await self.challenge(stage, prompt))

    async def challenge(self, stage: str, prompt: str) -> bytes:
        await self.say(stage, prompt)
        answer = await self.line()
        if answer == b"*":
            raise Refused("501 5.7.0 Authentication cancelled")
        return answer


def _decoded(text: bytes) -> bytes:
    if text == b"=":  # RFC 4954, 4: an initial response of no bytes
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Refused("501 5.5.2 Cannot Base64-decode the response") from None


def _credentials(text: bytes) -> tuple[bytes, bytes]:
    try:
        return plain_credentials(_decoded(text))
    except ValueError:
        raise Refused("501 5.5.2 Malformed PLAIN message") from None
