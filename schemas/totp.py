"""TOTP secrets: base32, or an `otpauth://` address. Everything here is pure."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qs, urlsplit

from pyotp.totp import TOTP

from schemas.bounds import LONGEST


def normalise_totp(cell: str) -> str | None:
    """Reduce a TOTP secret to base32, or to an `otpauth://` address if it does not use the defaults.

    Returns:
        A value that `totp_of` accepts, or None if the cell is blank or gives no code.
    """
    text = cell.strip()
    if not text or len(text) > LONGEST["totpsecret"]:
        return None
    try:
        totp = totp_of(text)
        totp.now()
    except ValueError:  # binascii.Error is one
        return None
    if (totp.digits, totp.interval, totp.digest) == (6, 30, hashlib.sha1):
        return str(totp.secret)
    return str(totp.provisioning_uri(name="mailbox"))


def totp_of(secret: str) -> TOTP:
    """Parse a TOTP secret.

    Args:
        secret: A result of `normalise_totp`, or a cell of the file.

    Raises:
        ValueError: If it is not a TOTP secret. The text never quotes it.
    """
    if secret.lower().startswith("otpauth:"):
        return _totp_from_uri(secret)
    return TOTP(_bare_secret(secret))


def _bare_secret(text: str) -> str:
    bare = re.sub(r"[\s-]+", "", text).rstrip("=")
    # Check before upper-casing: some letters outside ASCII become S or I when they are upper-cased.
    if not re.fullmatch(r"[A-Za-z2-7]+", bare):
        raise ValueError("not base32")
    return bare.upper()


_DIGESTS = {"SHA1": hashlib.sha1, "SHA256": hashlib.sha256, "SHA512": hashlib.sha512}


def _totp_from_uri(text: str) -> TOTP:
    """Source: the Key URI format of authenticator apps."""
    parts = urlsplit(text)
    query = {key.lower(): values[-1] for key, values in parse_qs(parts.query).items()}
    digits, period = query.get("digits", "6"), query.get("period", "30")
    digest = _DIGESTS.get(query.get("algorithm", "SHA1").upper().replace("-", ""))
    if parts.netloc.lower() != "totp" or digest is None:
        raise ValueError("not an otpauth://totp/ address")
    if not re.fullmatch(r"[678]", digits) or not re.fullmatch(r"[1-9][0-9]{0,4}", period):
        raise ValueError("invalid digits or period")
    return TOTP(
        _bare_secret(query.get("secret", "")), digits=int(digits), interval=int(period), digest=digest
    )
