"""How a row that is not imported is told: its message, its address, and the rows that it is told from."""

from __future__ import annotations

import pytest

from schemas import rows
from schemas.addresses import domain_key, email_key
from schemas.refusals import Refusal
from schemas.row_reasons import RowError, RowReason, SkipReason, why_not_imported
from schemas.rows import Duplicate, dedupe, validate
from schemas.totp import normalise_totp
from tests.test_rows import TOTP_80_BITS, table_of, validate_row


def test_a_row_error_on_one_line() -> None:
    """A row error is told with its line, its message, what to do and its code."""
    assert str(RowError(7, "ann", RowReason.INVALID_EMAIL)) == (
        "line 7: Invalid email address; enter the full address, such as ann@example.com (invalid_email)"
    )
    assert str(RowError(8, "joe@gmail.com", RowReason.NOT_AT_MICROSOFT)) == (
        "line 8: Not hosted at Microsoft: Gmail; remove the row, or name the domain in "
        "OUTLOOK_IMPORT_SERVERS (not_at_microsoft)"
    )


def test_only_a_mailbox_elsewhere_is_told_with_its_provider() -> None:
    """The provider is named where it is the reason, and only if the address is known."""
    assert RowError(2, "joe@gmail.com", RowReason.INVALID_TOTP).message == "Invalid TOTP secret"
    assert RowError(2, "unknown", RowReason.NOT_AT_MICROSOFT).message == "Not hosted at Microsoft"
    assert RowError(2, "joe@contoso.com", RowReason.NOT_AT_MICROSOFT).message == "Not hosted at Microsoft"


SKIPPED = {
    "duplicate": (
        "The same mailbox appears earlier in the file",
        "nothing; the first row of the mailbox is used",
    ),
    "duplicate_differs": (
        "The same mailbox appears earlier in the file, with another password",
        "check that the first row has the right password",
    ),
    "already_stored": (
        "Already stored in the workspace: credentials not changed",
        "nothing; the mailbox is already there",
    ),
    "unchanged": ("Already stored with this very password", "nothing; the mailbox is already there"),
    "refused_before": (
        "The servers have refused this very password: it is not sent again",
        "create a new app password",
    ),
}


def test_why_a_row_was_not_imported() -> None:
    """A stored code gives the message and the remedy of a row that failed or was skipped."""
    assert {code: why_not_imported(2, "ann@x.co", code) for code in SkipReason} == SKIPPED
    assert why_not_imported(2, "joe@gmail.com", "not_at_microsoft") == (
        "Not hosted at Microsoft: Gmail",
        "remove the row, or name the domain in OUTLOOK_IMPORT_SERVERS",
    )
    assert why_not_imported(2, "ann", "invalid_email")[0] == "Invalid email address"
    with pytest.raises(ValueError, match="is not a valid RowReason"):
        why_not_imported(2, "ann", "no such code")


def test_what_a_duplicate_is() -> None:
    """A duplicate tells whether its password is another one than that of the first row."""
    assert Duplicate(3, "ann@x.co").reason is SkipReason.DUPLICATE
    assert Duplicate(3, "ann@x.co", differs=True).reason is SkipReason.DUPLICATE_DIFFERS


@pytest.mark.parametrize(
    ("passwords", "noted"),
    [([" a", " b"], True), ([" a", "b"], False), ([" a"], False), (["a", "b"], False)],
    ids=["all", "one of two", "a single row", "none"],
)
def test_a_space_behind_each_delimiter_is_noted(passwords: list[str], noted: bool) -> None:
    """A note says so if every password of several rows begins with a space."""
    validated = validate(table_of(*({"password": password} for password in passwords)))
    assert [note for note in validated.notes if note.startswith("Every password begins")] == (
        list(validated.notes) if noted else []
    )
    assert len(validated.notes) == noted


def test_words_for_nothing_in_a_sign_in_name_are_noted() -> None:
    """The note on words for nothing counts each optional column, and blank cells do not count."""
    validated = validate(table_of({"login": "N/A", "name": " "}, {"login": "none", "totpsecret": ""}))
    assert validated.notes == ("Read as empty because of a word such as N/A or none: login (2 rows)",)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("contoso.com", "contoso.com"),
        (" @Contoso.COM ", "contoso.com"),
        ("bücher.example.com", "xn--bcher-kva.example.com"),
        ("contoso", None),
        ("ann@contoso.com", None),
        ("", None),
    ],
)
def test_a_domain_as_keys_have_it(text: str, key: str | None) -> None:
    """A domain is written in several ways and has one key; what is no domain has none."""
    assert domain_key(text) == key


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("Ann@Corp.local", "ann@corp.local"),
        ("ann.b+x@corp.local", "ann.b+x@corp.local"),
        ("ann@other.local", None),
        ("a nn@corp.local", None),
        ("änn@corp.local", None),
        ("@corp.local", None),
        ("corp.local", None),
        (f"{'x' * 64}@corp.local", f"{'x' * 64}@corp.local"),
        (f"{'x' * 65}@corp.local", None),
    ],
)
def test_addresses_of_a_special_domain(given: str, key: str | None) -> None:
    """A special domain such as `.local` is valid if the settings name its servers, as other rules allow."""
    assert email_key(given, {"corp.local"}) == key
    assert email_key(given) is None


def test_a_mailbox_of_a_special_domain_is_imported() -> None:
    """A row at a special domain passes if the settings name its servers, and fails if not."""
    table = table_of({"email": "Ann@Corp.local"})
    assert validate(table, {"corp.local"}).valid["email_key"].to_list() == ["ann@corp.local"]
    assert [error.reason for error in validate(table).errors] == [RowReason.INVALID_EMAIL]


@pytest.mark.parametrize(
    ("cell", "valid"),
    [
        ("A" * 512, True),
        ("A" * 513, False),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}&period=99999", True),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}&period=100000", False),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}&digits=9", False),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}&digits=7", True),
        (f"otpauth://totp/x?secret={TOTP_80_BITS}&algorithm=sha-512", True),
        (f"x-otpauth://totp/x?secret={TOTP_80_BITS}", False),
    ],
)
def test_bounds_of_totp_secrets(cell: str, valid: bool) -> None:
    """A TOTP secret has a longest length, and its parameters have bounds."""
    assert (normalise_totp(cell) is not None) == valid


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        *(
            ({"email": f"ann@fabrikam,{end}"}, True)
            for end in ("com", "net", "org", "edu", "de", "fr", "uk", "eu")
        ),
        ({"email": "ann@fabrikam;com"}, True),
        ({"email": "ann@fabrikam,dev"}, False),
        ({"email": "ann@fabrikam,com,x"}, False),
        *(({"email": f"ann7fabrikam{end}"}, True) for end in (".com", ".net", ".org", ".COM")),
        ({"email": "ann7fabrikam.dev"}, False),
        ({"email": "ann7contoso.dev"}, True),
        ({"email": "ann@ fabrikam"}, True),
        ({"email": "o'neil.b+x-1_y@fabrikam"}, True),
        ({"email": "ann!@fabrikam"}, False),
        ({"email": "ann@fabrikam7"}, False),
        ({"email": "ann@fabrikam7.x-"}, True),
        ({"email": "ann--b@fabrikam"}, False),
        ({"email": "ann@fabri$kam"}, False),
        ({"email": "annabel"}, True),
        ({"email": "anna7bel"}, False),
        ({"email": "annabel", "totpsecret": "ann@x.co"}, False),
        ({"email": "annabel", "password": " annabel "}, False),
    ],
)
def test_what_is_shown_of_a_mistyped_address(cells: dict[str, str], shown: bool) -> None:
    """A slip of typing is shown, so that it can be found; what may be a password is not."""
    good = {"email": "bob@contoso.dev", "password": "pw"}
    (error,) = validate(table_of(good, cells)).errors
    assert error.email == (cells["email"] if shown else "unknown")


def test_duplicates_after_the_cap_is_reached_are_still_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly as many mailboxes as allowed end no validation: the rows behind them are looked at too."""
    monkeypatch.setattr(rows, "MAX_MAILBOXES", 4)
    monkeypatch.setattr(rows, "ROWS_AT_ONCE", 2)
    addresses = [f"u{at}@x.co" for at in (1, 2, 3, 4, 1, 2)]
    found = dedupe(validate(table_of(*({"email": address} for address in addresses))).valid)
    assert not isinstance(found, Refusal)
    assert [duplicate.email for duplicate in found.duplicates] == ["u1@x.co", "u2@x.co"]


def test_the_same_password_again_is_no_difference() -> None:
    """A duplicate differs by the password as it is stored, not by how the cell was written."""
    table = table_of({"password": "abcd efgh ijkl mnop"}, {"password": "abcdefghijklmnop"})
    found = dedupe(validate(table).valid)
    assert not isinstance(found, Refusal)
    assert [duplicate.differs for duplicate in found.duplicates] == [False]


def test_warnings_of_a_row_are_joined() -> None:
    """All that was noticed about a row is one warning; that of the password stands alone as well."""
    alone = validate(table_of({"email": "<ann@x.co>"}, {"email": "max@hotmial.com"}, {"password": " pw"}))
    assert alone.valid["warning"].to_list() == [
        "Characters around the address were removed",
        "hotmial.com: did you mean hotmail.com?",
        "Password begins or ends with a space: imported unchanged",
    ]
    row = validate_row(email="<max@hotmial.com>", password=" pw").valid.row(0, named=True)
    assert row["password_warning"] == "Password begins or ends with a space: imported unchanged"
    assert row["warning"] == (
        "Password begins or ends with a space: imported unchanged; Characters around the address were "
        "removed; hotmial.com: did you mean hotmail.com?"
    )
