"""Email addresses: their keys and their domains. Everything here is pure."""

from __future__ import annotations

from collections.abc import Collection

from email_validator import EmailNotValidError, ValidatedEmail, validate_email

from schemas.bounds import LONGEST


def email_key(address: str, served: Collection[str] = ()) -> str | None:
    """The key of a mailbox: two spellings of the same address give the same key.

    Args:
        served: Domains with their own servers in the settings. They may be special ones, such as `.local`.

    Returns:
        The case-folded ASCII address, or None if it is not a valid address. Only the syntax is checked, not
        DNS.
    """
    if not 0 < len(address) <= LONGEST["email"]:
        return None
    local, _, domain = address.rpartition("@")
    if valid := _valid(address):
        return str(valid.ascii_email).casefold()
    # A special domain is not valid by itself, so its mailboxes are checked at another one.
    if domain.casefold() in served and (valid := _valid(f"{local}@contoso.com")):
        return f"{valid.ascii_local_part}@{domain}".casefold()
    return None


def domain_key(text: str) -> str | None:
    """The domain as keys have it, such as `contoso.com` for `@Contoso.com`; None if it is not a domain."""
    key = email_key(f"mailbox@{text.strip().removeprefix('@')}")
    return None if key is None else key.removeprefix("mailbox@")


def _valid(address: str) -> ValidatedEmail | None:
    try:
        return validate_email(address, check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError:
        return None


def domain_of(key: str) -> str:
    """The domain of a mailbox's key."""
    return key.rpartition("@")[2]
