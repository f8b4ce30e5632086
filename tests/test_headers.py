"""The meaning of headers."""

from __future__ import annotations

import pytest

from schemas.headers import (
    FIELDS,
    KNOWN_HEADERS,
    LONGEST_SHOWN_HEADER,
    find_columns,
    is_header,
    normalise,
    shown,
    without_columns,
)
from schemas.reading import parse_columns
from schemas.refusals import COLUMNS_REQUIRED, Refusal


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
        ("Sign-in name", "login"),
        ("User name [userPrincipalName] Required", "email"),
        ("Initial password [passwordProfile] Required", "password"),
        ("Password [Required]", "password"),
        ("NAME (optional)", "name"),
        ("Password: ", "password"),
        ("otpUrl", "totpsecret"),
        (" \tE - M _ A\u00a0I\u2011L \n", "email"),
        ("\ufeffPassword", "password"),
    ],
)
def test_known_names(header: str, field: str) -> None:
    """The usual names are recognised in any case, with spaces, underscores and hyphens."""
    others = [KNOWN_HEADERS[name][0] for name in FIELDS if name != field]
    columns = find_columns([*others, header], no_values)
    assert columns is not None
    assert columns.position == {name: at for at, name in enumerate(sorted(FIELDS, key=field.__eq__))}
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
    assert (same.position, same.ignored, same.fault) == ({"email": 1, "password": 2}, (), None)
    recovery = find_columns(header, lambda: [(2, ["ann@x.co", "me@gmail.com", "p"])])
    assert recovery is not None
    assert recovery.fault == Refusal(
        "Line 2: columns “email” and “user name” hold different addresses: remove one of them",
        "or choose one: --map email=email or --map 'email=user name'",
        line=2,
        headers=("email", "user name"),
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
    assert (columns.fault.message if columns.fault else "") == fault


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


@pytest.mark.parametrize(
    ("header", "choice", "position"),
    [
        (["Username", "Email", "Password"], {"email": "Email"}, {"email": 1, "password": 2}),
        (["Kennung", "Kennwort"], {"email": "Kennung", "password": "Kennwort"}, {"email": 0, "password": 1}),
        (["email", "pwd", "PWD 2"], {"password": "pwd 2"}, {"password": 2, "email": 0}),
        (
            ["email", "password", "account"],
            {"login": "account"},
            {"login": 2, "email": 0, "password": 1},
        ),
        (["e", "E", "password"], {"email": "E"}, {"email": 1, "password": 2}),
        (["email", "password"], {"name": "nobody"}, None),
    ],
    ids=["two addresses", "unknown names", "two passwords", "sign-in name", "exact first", "not there"],
)
def test_a_choice_settles_what_the_header_leaves_open(
    header: list[str], choice: dict[str, str], position: dict[str, int] | None
) -> None:
    """A chosen column is used, and no other column competes with it."""
    rows = [(2, ["ann@x.co", "other@x.co", "p"])]
    columns = find_columns(header, lambda: rows, choice=choice)
    assert (columns and columns.position) == position
    assert columns is None or columns.fault is None


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["email=User name", " login = Login "], {"email": "User name", "login": "Login"}),
        (["email=a=b"], {"email": "a=b"}),
        ([], {}),
        (["mail=Login"], "Column choice “mail=Login” is not FIELD=HEADER"),
        (["email"], "Column choice “email” is not FIELD=HEADER"),
        (["email="], "Column choice “email=” is not FIELD=HEADER"),
        (["email=a", "email=b"], "Column choice: email is chosen twice"),
        (["email=User Name", "login=username"], "Column choice: one column is chosen for two fields"),
    ],
)
def test_choices_of_columns(choices: list[str], expected: dict[str, str] | str) -> None:
    """A choice is FIELD=HEADER; anything else gets a sentence."""
    found = parse_columns(choices)
    assert (found.message if isinstance(found, Refusal) else found) == expected


def test_the_file_of_a_migration() -> None:
    """In Microsoft's `EmailAddress,UserName,Password` the user name is the sign-in name."""
    columns = find_columns(["EmailAddress", "UserName", "Password"], no_values)
    assert columns is not None
    assert columns.position == {"email": 0, "password": 2, "login": 1}


def test_first_and_last_name_are_one_name() -> None:
    """A first and a last name are joined, unless there is a column with both."""
    columns = find_columns(["Last Name", "First Name", "email", "password"], no_values)
    assert columns is not None
    assert columns.position == {"email": 2, "password": 3, "name": 1, "surname": 0}
    whole = find_columns(["First Name", "Last Name", "Display name", "email", "password"], no_values)
    assert whole is not None
    assert whole.ignored == ("First Name", "Last Name")


def test_a_column_named_login_holds_sign_in_names() -> None:
    """A column `login` beside the addresses is the sign-in name, unless it holds other addresses."""
    header = ["email", "login", "password"]
    names = find_columns(header, lambda: [(2, ["ann@x.co", "CONTOSO\\ann", "p"]), (3, ["bob@x.co", "", "p"])])
    assert names is not None
    assert names.position == {"email": 0, "login": 1, "password": 2}
    addresses = find_columns(header, lambda: [(2, ["ann@x.co", "me@gmail.com", "p"])])
    assert addresses is not None
    assert addresses.fault is not None


def test_columns_that_agree_fill_each_others_gaps() -> None:
    """A second column of a field is read too, for the rows in which the first one is empty."""
    header = ["email", "SMTP password", "IMAP password", "username"]
    rows = [(2, ["ann@x.co", "p", "", ""]), (3, ["", "", "q", "bob@x.co"]), (4, ["", "r", "r", "cid@x.co"])]
    columns = find_columns(header, lambda: rows)
    assert columns is not None
    assert columns.fault is None
    assert columns.position == {"email": 3, "password": 1}
    assert columns.read == {"email": 3, "password": 1, "email 0": 0, "password 2": 2}
    assert columns.ignored == ()


NOT_NAMED = (
    "none of the first lines names both; name the columns in a header line such as email,password,name"
)


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (
            ["Email", "Kennwort"],
            "line 1 has no password column, only “Email”, “Kennwort”; rename one, or choose it: "
            "--map password=Kennwort",
        ),
        (
            ["E-Mail-Adresse", "Passwort"],
            "line 1 has no email and no password column, only “E-Mail-Adresse”, “Passwort”; "
            "rename one, or choose it: --map email=E-Mail-Adresse --map password=Passwort",
        ),
        (
            ["Nom d'utilisateur", "Mot de passe"],
            "line 1 has no email and no password column, only “Nom d'utilisateur”, “Mot de passe”; rename "
            """one, or choose it: --map 'email=Nom d'"'"'utilisateur' --map 'password=Mot de passe'""",
        ),
        (
            ["Username", "New password", "Password expires"],
            "line 1 has no password column, only “Username”, “New password”, “Password expires”; rename one, "
            "or choose it: --map 'password=New password'",
        ),
        (
            ["Email", "Old password", "New password"],
            "line 1 has no password column, only “Email”, “Old password”, “New password”; rename one, "
            "or choose it: --map password=HEADER",
        ),
        (
            ["Name", "Phone"],
            "line 1 has no email and no password column, only “Name”, “Phone”; rename one, or choose it: "
            "--map email=HEADER --map password=HEADER",
        ),
        (
            ["user name", "password"],
            "line 1 has “user name”, “password”, but no column holds addresses; choose one: "
            "--map email=HEADER",
        ),
        (
            ["ann@x.co", "secret"],
            "line 1 contains an address, so the file has no header; add a header line such as "
            "email,password,name",
        ),
        (
            ["Name", "Hunter2!"],
            NOT_NAMED,
        ),
        (
            ["Name", "abcd efgh ijkl mnop"],
            NOT_NAMED,
        ),
        (
            ["foo", "bar"],
            NOT_NAMED,
        ),
        (
            ["'email'", "'password'"],
            "the values of line 1 are in apostrophes; remove them, and name the columns in a header line "
            "such as email,password,name",
        ),
    ],
)  # fmt: skip
def test_a_missing_column_is_named(header: list[str], detail: str) -> None:
    """The refusal says which column is missing; it names headers only if the line is surely a header."""
    refusal = without_columns(header)
    assert (refusal.message, refusal.detail) == (COLUMNS_REQUIRED, detail)
    assert refusal.headers == (tuple(header) if detail.startswith("line 1 has") else ())
    assert set(refusal.known) == set(refusal.missing)


def test_a_chosen_column_that_is_not_there() -> None:
    """A choice that no line has is named together with what is there."""
    refusal = without_columns(["Email", "Password"], {"login": "Account"})
    assert refusal.detail == "line 1 has no column “Account”; it has “Email”, “Password”"
    both = without_columns(["Email", "Password"], {"login": "Account", "name": "Who"})
    assert both.detail == refusal.detail
    nothing = without_columns(["foo", "bar"], {"email": "Konto", "name": "Wer"})
    assert nothing.detail == f"no line has a column “Konto”; {NOT_NAMED}"
    assert nothing.missing == ("password",)


def test_many_headers_are_not_all_named() -> None:
    """Of a header with more than eight cells the first eight are named, and the others are counted."""
    header = ["Email", " ", *(f"Field {'abcdefgh'[at]}" for at in range(8))]
    refusal = without_columns(header, line=3)
    named = ", ".join(f"“{cell}”" for cell in [header[0], *header[2:9]])
    assert refusal.detail == (
        f"line 3 has no password column, only {named} and 1 more; rename one, or choose it: "
        "--map password=HEADER"
    )
    assert (refusal.line, refusal.headers) == (3, (header[0], *header[2:]))
    eight = without_columns(header[:-1])
    assert eight.detail is not None
    assert f"{named}; rename" in eight.detail


@pytest.mark.parametrize(
    ("cells", "choice", "found"),
    [
        (["email", "password"], {}, True),
        (["User", "PWD", "other"], {}, True),
        (["email", "name"], {}, False),
        (["password", "name"], {}, False),
        (["Konto", "Wort"], {"email": "konto", "password": "Wort"}, True),
        (["email", "Wort"], {"password": "Wort"}, True),
        (["Konto", "password"], {"email": "Konto"}, True),
        (["Konto", "Wort"], {"email": "Konto"}, False),
        (["Konto", "Wort"], {"password": "Wort"}, False),
        (["email", "password"], {"login": "Account"}, False),
    ],
)
def test_what_a_header_is(cells: list[str], choice: dict[str, str], found: bool) -> None:
    """A row is a header if it names, or a choice names, a column of addresses and one of passwords."""
    assert is_header(cells, choice) is found


@pytest.mark.parametrize(
    "header",
    [
        *(
            "User name",
            "UserName",
            "login_username",
            "Login",
            "Login Name",
            "user",
            "User ID",
            "SMTP Username",
        ),
        "IMAP Username",
    ],
)
def test_sign_in_names_that_are_addresses(header: str) -> None:
    """A column of sign-in names is used for the addresses if it holds them, whatever it is called."""
    columns = find_columns([header, "password"], lambda: [(2, ["ann@x.co", "pw"])])
    assert columns is not None
    assert columns.position == {"email": 0, "password": 1}
    assert without_columns([header, "Name"]).missing == ("password",)


def test_a_sign_in_name_is_not_needed_twice() -> None:
    """Of a migration file with its own sign-in name, the user name is not one."""
    header = ["EmailAddress", "UserName", "Password", "UserRoot"]
    plain = find_columns(header, no_values)
    assert plain is not None
    assert plain.position == {"email": 0, "password": 2, "login": 1}
    rows = [(2, ["ann@x.co", "ann", "pw", ""])]
    chosen = find_columns(header, lambda: rows, choice={"login": "UserRoot"})
    assert chosen is not None
    assert chosen.position == {"login": 3, "email": 0, "password": 2}


@pytest.mark.parametrize("last", ["Last name", "Surname", "family_name", "Last"])
@pytest.mark.parametrize("first", ["First name", "Given Name", "first"])
def test_names_of_halves_of_a_name(first: str, last: str) -> None:
    """The two halves of a name are found by their usual names, and one half alone is not a name."""
    columns = find_columns(["email", "password", first, last], no_values)
    assert columns is not None
    assert columns.position == {"email": 0, "password": 1, "name": 2, "surname": 3}
    for half in (first, last):
        alone = find_columns(["email", "password", half], no_values)
        assert alone is not None
        assert alone.ignored == (half,)


@pytest.mark.parametrize(
    "site", ["url", "URI", "login_uri", "Website", "hostname", "origin", "formActionOrigin"]
)
def test_the_name_in_a_password_manager_is_that_of_a_site(site: str) -> None:
    """Beside the address of a site, `name` is not the name of a person; a display name still is."""
    columns = find_columns([site, "email", "password", "name"], no_values)
    assert columns is not None
    assert columns.position == {"email": 1, "password": 2}
    both = find_columns([site, "email", "password", "name", "Display name"], no_values)
    assert both is not None
    assert both.position == {"email": 1, "password": 2, "name": 4}


def test_of_two_columns_that_agree_the_fuller_one_is_used() -> None:
    """Of two columns of addresses or passwords the one with more values is used, and both count as used."""
    rows = [(2, ["", "ann@x.co", "pw", ""]), (3, ["bob@x.co", "BOB@x.co", "pw", "pw"]), (4, ["", "", "pw"])]
    columns = find_columns(["email", "mail", "password", "pass"], lambda: rows)
    assert columns is not None
    assert (columns.position, columns.ignored, columns.fault) == ({"email": 1, "password": 2}, (), None)


def test_of_two_optional_columns_the_better_name_is_used() -> None:
    """Of two columns for an optional field the better known name wins, wherever it stands."""
    columns = find_columns(["email", "password", "name", "Full name", "TOTP", "TOTP secret"], no_values)
    assert columns is not None
    assert columns.position == {"email": 0, "password": 1, "name": 3, "totpsecret": 5}
    assert columns.ignored == ("name", "TOTP")


def test_passwords_agree_to_the_letter() -> None:
    """Two columns of passwords that differ in case alone hold different passwords."""
    columns = find_columns(["email", "password", "pass"], lambda: [(2, ["ann@x.co", "Pw", "pW"])])
    assert columns is not None
    assert columns.fault is not None
    assert columns.fault.detail == "or choose one: --map password=password or --map password=pass"


def test_spaces_around_headers_prove_nothing() -> None:
    """Spaces around the cells of line 1 do not decide whether it is surely a header."""
    assert without_columns([" Name ", " Phone "]).headers == ("Name", "Phone")
    assert without_columns([" Name ", " abcd efgh ijkl mnop "]).headers == ()
