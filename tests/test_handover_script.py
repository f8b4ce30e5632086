"""The PowerShell script of a hand-over: what it does, and that no address can break out of it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.handover.script import enable_smtp_auth
from schemas.labels import printable
from schemas.powershell import literal
from tests.support.powershell import (
    LIKE_QUOTE,
    commands,
    conditions,
    is_faulty,
    nodes,
    parsed,
    strings,
    text,
    value_of,
)

HOSTILE = [
    "o'brien@contoso.com",
    "o''brien@contoso.com",
    "'; Remove-Mailbox ann@contoso.com; '@contoso.com",
    "\u2019; Remove-Mailbox ann; \u2018@contoso.com",
    "\u2018\u2019\u201a\u201b'@contoso.com",
    "\u201a); exit; @(\u201b@contoso.com",
    "$(Remove-Mailbox ann)@contoso.com",
    "${env:USERNAME}$Apply@contoso.com",
    "`'`n`\"@contoso.com",
    '"quoted"\u201cand\u201d@contoso.com',
    "ann@contoso.com\n)\nRemove-Mailbox ann\n@(",
    "ann@contoso.com\r)\rRemove-Mailbox ann",
    "ann\u2028)\u2029\x85Remove-Mailbox@contoso.com",
    "#>comment<#@contoso.com",
    "@'\nhere\n'@",
    "\x1b]0;title\x07\x00@contoso.com",
    "ann\u202egnirts\u2066@contoso.com",
    "\ud800@contoso.com",
    "ё‘ђ@contoso.com",
    "\\'@contoso.com",
    "'" * 7,
    "",
    "x" * 5000 + "@contoso.com",
]
EXCHANGE = {"Get-CASMailbox", "Set-CASMailbox", "Get-TransportConfig", "Get-OrganizationConfig"}
CALLS = EXCHANGE | {
    *("Get-Command", "Join-Path", "Test-Path", "Import-Csv", "Export-Csv", "Move-Item", "Sort-Object"),
    *("Write-Host", "Write-Warning", "Get-SmtpAuthState", "Show-State", "Show-Failure", "Save-Before"),
}


def script(*emails: str) -> str:
    return enable_smtp_auth(emails).decode("utf-8-sig")


def test_the_script_parses() -> None:
    """A script for many mailboxes is PowerShell without an error, and its first line is the count."""
    made = script(*(f"ann.{number}@contoso.com" for number in range(500)))
    assert not is_faulty(parsed(made))
    assert made.startswith("# 500 mailboxes need SMTP AUTH.\n")
    assert script("ann@contoso.com").startswith("# 1 mailbox needs SMTP AUTH.\n")


def test_the_script_starts_with_a_byte_order_mark() -> None:
    """Windows PowerShell 5.1 reads the script as UTF-8, and not in a code page in which “ё” has a quote."""
    made = enable_smtp_auth(["ё@contoso.com"])
    assert made.startswith(b"\xef\xbb\xbf#")
    assert "‘" in "ё".encode().decode("cp1252")


def test_each_address_is_one_literal() -> None:
    """Each hostile address is exactly one string literal in the list of mailboxes, and reads as itself."""
    root = parsed(script(*HOSTILE))
    assert not is_faulty(root)
    assert strings(value_of(root, "$Mailboxes")) == [
        printable(email).translate(LIKE_QUOTE) for email in HOSTILE
    ]


@pytest.mark.parametrize("email", HOSTILE, ids=range(len(HOSTILE)))
def test_an_address_changes_nothing_else(email: str) -> None:
    """With a hostile address, the script has the same structure as with a harmless one."""
    structures = [[node.type for node in nodes(parsed(script(one)))] for one in (email, "ann@contoso.com")]
    assert structures[0] == structures[1]
    assert script(email).count("\n") == script("ann@contoso.com").count("\n")


@given(st.text(st.characters() | st.sampled_from("'‘’‚‛\"`$(){}@#;\n\r")))
def test_any_text_is_one_literal(value: str) -> None:
    """Any text becomes one string literal on one line."""
    root = parsed(f"$a = {literal(value)}\n$b = 1\n")
    assert not is_faulty(root)
    assert strings(root) == [printable(value).translate(LIKE_QUOTE)]
    assert len(literal(value).splitlines()) == 1


def test_the_typographic_quotes_are_the_ones_that_end_a_literal() -> None:
    """The check of these tests sees a break-out: an undoubled typographic quote ends the literal."""
    assert strings(parsed("$a = 'ann\u2019 + 'bob'")) == ["ann", "bob"]


def test_nothing_is_changed_without_apply() -> None:
    """Only `-Apply` reaches the one command that changes Exchange; no other command can change it."""
    root = parsed(script("ann@contoso.com"))
    called = list(commands(root))
    assert {name for name, _ in called} == CALLS
    changes = [node for name, node in called if name == "Set-CASMailbox"]
    assert [list(conditions(node)) for node in changes] == [["$Apply", "$Undo"], ["$Apply", "not $Undo"]]


def test_no_failure_goes_unnoticed() -> None:
    """Each call of Exchange stops at an error, although its commands do not see the script's preference."""
    root = parsed(script("ann@contoso.com"))
    calls = [text(node.parent) for name, node in commands(root) if name in EXCHANGE and node.parent]
    assert len(calls) == 5
    assert all("-ErrorAction Stop" in call for call in calls)


def test_the_state_is_recorded_before_the_first_change() -> None:
    """The script saves all states before any change, and marks a mailbox as changed before it changes it."""
    made = script("ann@contoso.com")
    _, _, forward = made.partition("$Todo = @()")
    saved, marked = forward.index("\n    Save-Before"), forward.index("Changed = 'yes'")
    assert saved < marked < forward.index("Set-CASMailbox")


def test_the_organisation_is_never_changed() -> None:
    """The setting of the whole organisation is only read, and the text says how the admin can change it."""
    root = parsed(script("ann@contoso.com"))
    assert "Set-TransportConfig" not in {name for name, _ in commands(root)}
    assert any("Set-TransportConfig -SmtpClientAuthenticationDisabled $false" in one for one in strings(root))


def test_the_script_has_no_literal_that_expands() -> None:
    """Every string of the script is in single quotes, and its own text is plain ASCII."""
    made = script("ann@contoso.com")
    assert made.isascii()
    root = parsed(made)
    assert not [text(node) for node in nodes(root) if node.type == "expandable_string_literal"]
    assert '"' not in re.sub(r"<#.*?#>", "", made, flags=re.DOTALL)
