"""Columns that are not used although they hold secrets."""

from __future__ import annotations

import pytest

from schemas.headers import find_columns, unused_secrets


@pytest.mark.parametrize(
    ("header", "value", "note"),
    [
        ("Custom field 2", "otpauth://totp/x?secret=JBSWY3DPEHPK3PXP", "TOTP secrets"),
        ("Notes", "JBSWY3DPEHPK3PXP", "TOTP secrets"),
        ("TOTP seed", "jbswy3dpehpk3pxp", "TOTP secrets"),
        ("Old password", "hunter2", "passwords"),
        ("Passwort", "hunter2", "passwords"),
        ("Notes", "call her on Monday", ""),
        ("Notes", "App password: hunter2", "passwords"),
        ("fields", "backup codes; PWD=hunter2", "passwords"),
        ("Comment", "abcd efgh ijkl mnop", "passwords"),
        ("Notes", "see otpauth://totp/x?secret=JBSWY3DPEHPK3PXP", "TOTP secrets"),
        ("Password Name", "Outlook", ""),
        ("Password URL", "https://outlook.com", ""),
        ("Strong password required", "True", ""),
        ("Last password change time stamp", "2026-01-01", ""),
        ("MFA", "yes", ""),
        ("Notes", "", ""),
    ],
)
def test_unused_columns_with_secrets_are_named(header: str, value: str, note: str) -> None:
    """A column that is not used but holds TOTP secrets or passwords is named, and flags are not."""
    names = ["email", "password", header]
    rows = [(2, ["ann@x.co", "pw", value]), (3, ["bob@x.co", "pw", value])]
    columns = find_columns(names, lambda: rows)
    assert columns is not None
    found = unused_secrets(columns, lambda: rows)
    if note:
        (text,) = found
        assert text.startswith(f"Column “{header}” is not used, but seems to hold {note}")
    else:
        assert found == []


def test_secrets_far_down_an_unused_column_are_found() -> None:
    """The first filled cells of an unused column are looked at, however far down they are."""
    rows = [(line, ["ann@x.co", "pw", ""]) for line in range(2, 900)]
    rows.append((900, ["ann@x.co", "pw", "otpauth://totp/x?secret=JBSWY3DPEHPK3PXP"]))
    columns = find_columns(["email", "password", "Custom"], lambda: rows)
    assert columns is not None
    (note,) = unused_secrets(columns, lambda: rows)
    assert note.startswith("Column “Custom” is not used, but seems to hold TOTP secrets")


@pytest.mark.parametrize(
    ("header", "values", "note"),
    [
        *(("Password", [value] * 2, "") for value in ("TRUE", "false", "Yes", "no", "0", "1")),
        ("Password", ["yes", "hunter2"], "passwords"),
        *(
            (f"Password {word}", ["hunter2"], "")
            for word in (
                *("changed", "expires", "never", "strong", "required", "policy", "hint", "last"),
                *("strength", "age", "reset", "forced"),
            )
        ),
        *(
            (word, ["hunter2"], "passwords")
            for word in (
                "Old passwd",
                "Kennwort",
                "Mot de passe",
                "Contraseña",
                "Senha",
                "Wachtwoord",
                "Secret",
            )
        ),
        *(
            (word, ["some value"], "TOTP secrets")
            for word in ("TOTP seed", "OTP key", "2FA key", "MFA key", "Authenticator")
        ),
        ("Notes", ["JBSWY3DPEHPK3PXP", "jbswy3dp"], "TOTP secrets"),
        ("Notes", ["JBSWY3DPEHPK3PXP", "jbswy3dp", "none yet"], ""),
        ("Notes", ["JBSWY3DPEHPK3PX"], ""),
        ("Notes", ["JBSW Y3DP EHPK 3PXP", "JBSWY3DPEHPK3PXPAA======"], "TOTP secrets"),
        ("Notes", ["ABCDEFGHIJKLMNOP"], ""),
        ("Notes", ["see", "OTPAUTH://totp/x"], "TOTP secrets"),
        ("Notes", [" ", "otpauth://totp/x"], "TOTP secrets"),
    ],
)
def test_which_unused_columns_hold_secrets(header: str, values: list[str], note: str) -> None:
    """Values that can only be TOTP secrets tell, then the name does, unless it is about passwords."""
    names = ["email", "pwd", f"my {header}"]
    rows = [(line, ["ann@x.co", "pw", value]) for line, value in enumerate(values, start=2)]
    columns = find_columns(names, lambda: rows)
    assert columns is not None
    advice = f"; to use it: --map 'totpsecret=my {header}'" if note == "TOTP secrets" else ""
    expected = [f"Column “my {header}” is not used, but seems to hold {note}{advice}"] if note else []
    assert unused_secrets(columns, lambda: rows) == expected


def test_a_second_column_of_totp_secrets_is_not_advised() -> None:
    """A note on TOTP secrets gives no advice if another column already holds them."""
    rows = [(2, ["ann@x.co", "pw", "JBSWY3DPEHPK3PXP", "otpauth://totp/x"])]
    columns = find_columns(["email", "password", "TOTP", "Notes"], lambda: rows)
    assert columns is not None
    assert unused_secrets(columns, lambda: rows) == [
        "Column “Notes” is not used, but seems to hold TOTP secrets"
    ]
