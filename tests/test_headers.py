"""The meaning of headers."""

from __future__ import annotations

import pytest

from schemas.headers import FIELDS, KNOWN_HEADERS, LONGEST_SHOWN_HEADER, find_columns, normalise, shown


def no_values() -> list[tuple[int, list[str]]]:
    raise AssertionError("the header is enough")


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("email", "email"),
        ("email address", "email"),
        ("E-Mail", "email"),
        ("mail", "email"),
        ("User Principal Name", "email"),
        ("userPrincipalName", "email"),
        ("password", "password"),
        ("App Password", "password"),
        ("app_password", "password"),
        ("pass", "password"),
        ("PWD", "password"),
        ("name", "name"),
        ("Display Name", "name"),
        ("full-name", "name"),
        ("totpsecret", "totpsecret"),
        ("TOTP", "totpsecret"),
        ("totp_secret", "totpsecret"),
        ("2FA Secret", "totpsecret"),
        ("OTP secret", "totpsecret"),
        (" \tE - M _ A\u00a0I\u2011L \n", "email"),
        ("\ufeffPassword", "password"),
    ],
)
def test_known_names(header: str, field: str) -> None:
    """The usual names are recognised in any case, with spaces, underscores and hyphens."""
    others = [name for name in FIELDS if name != field]
    columns = find_columns([*others, header], no_values)
    assert columns is not None
    assert columns.position == {name: at for at, name in enumerate([*others, field])}
    assert not columns.fault


def test_known_names_are_normal() -> None:
    """The table of names is normalised, and no name has two meanings."""
    names = [name for known in KNOWN_HEADERS.values() for name in known]
    assert names == [normalise(name) for name in names]
    assert len(names) == len(set(names))
    assert tuple(KNOWN_HEADERS) == FIELDS


@pytest.mark.parametrize(
    "header",
    [
        [],
        [""],
        ["email"],
        ["password"],
        ["e.mail", "password"],
        ["emails", "password"],
        ["email", "passwörd"],
        ["email,password"],
        ["user name", "password"],
    ],
    ids=repr,
)
def test_no_columns(header: list[str]) -> None:
    """Without an email and a password column there is no match."""
    assert find_columns(header, lambda: [(2, ["ann", "x"])]) is None


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        (["ann@x.co", "bob@x.co"], True),
        (["ann@x.co", "", "  "], True),
        (["ann@x.co", "bob@"], True),
        (["ann@x.co", "admin"], True),
        (["ann@x.co", "admin", "root"], False),
        (["", " "], False),
        ([], False),
    ],
    ids=["addresses", "blank cells beside", "a slip", "a bare name", "bare names", "only blanks", "nothing"],
)
def test_user_name(values: list[str], counts: bool) -> None:
    """A bare `user name` is the address if at least half of its values look like one."""
    rows = [(line, ["", value]) for line, value in enumerate(values, start=2)]
    columns = find_columns(["Password", "User Name"], lambda: rows)
    assert (columns is not None and columns.position == {"email": 1, "password": 0}) == counts


def test_user_name_beside_an_email() -> None:
    """A `user name` next to an email column is used only as far as it agrees."""
    header = ["user name", "email", "password"]
    other = find_columns(header, lambda: [(2, ["admin", "ann@x.co", "p"])])
    assert other is not None
    assert (other.position, other.ignored) == ({"email": 1, "password": 2}, ("user name",))
    same = find_columns(header, lambda: [(2, ["ANN@x.co", "ann@x.co", "p"]), (3, ["", "bob@x.co", "p"])])
    assert same is not None
    assert (same.position, same.ignored, same.fault) == ({"email": 1, "password": 2}, (), "")
    recovery = find_columns(header, lambda: [(2, ["ann@x.co", "me@gmail.com", "p"])])
    assert recovery is not None
    assert recovery.fault == (
        "Line 2: columns “email” and “user name” hold different addresses: remove one of them"
    )


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (["email", "password", "E-Mail"], "Two columns are named “E-Mail”: rename or remove one of them"),
        (["email", "password", "x", " X "], ""),
        (
            ["email", "password", "mail"],
            "Line 3: columns “email” and “mail” hold different addresses: remove one of them",
        ),
        (
            ["email", "pass\nword", "totp", "2fa secret", "pwd"],
            "Line 3: columns “pass word” and “pwd” hold different passwords: remove one of them",
        ),
        (
            ["email", "password", *map(str, range(99))],
            "CSV file has more than 100 columns: remove the ones you do not need",
        ),
        (["email", "password", "", "", *map(str, range(96))], ""),
    ],
    ids=["one name", "one unknown name", "one meaning", "which ones", "too many", "blank ones are no names"],
)
def test_faults(header: list[str], fault: str) -> None:
    """Two columns with one name, two that disagree, and far too many columns are a fault of the file."""
    rows = [(2, ["a@x.co"] * len(header)), (3, [f"{at}@x.co" for at in range(len(header))])]
    columns = find_columns(header, lambda: rows)
    assert columns is not None
    assert columns.fault == fault


def test_ignored() -> None:
    """Unknown columns are listed in the file's order without blank ones, but the width counts them all."""
    columns = find_columns(["b", "email", " ", "password", "a\tc", ""], no_values)
    assert columns is not None
    assert columns.ignored == ("b", "a c")
    assert columns.width == 6


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (" a\r\n\tb\x1b[31m\u202e ", "a b [31m"),
        ("x" * LONGEST_SHOWN_HEADER, "x" * LONGEST_SHOWN_HEADER),
        ("x" * 10_000, "x" * (LONGEST_SHOWN_HEADER - 1) + "…"),
    ],
    ids=["control characters", "just fits", "too long"],
)
def test_shown(header: str, line: str) -> None:
    """A header is shown as one short printable line."""
    assert shown(header) == line


def test_export_of_the_microsoft_365_admin_centre() -> None:
    """The admin centre's export of users can be imported once it has a column of passwords."""
    header = [
        *("Block credential", "City", "Display name", "Fax", "First name", "Last name"),
        *("Last password change time stamp", "Licenses", "Password never expires", "Proxy addresses"),
        *("Strong password required", "Title", "Usage location", "User principal name", "Password"),
    ]
    columns = find_columns(header, no_values)
    assert columns is not None
    assert columns.position == {"name": 2, "email": 13, "password": 14}
    assert not columns.fault
