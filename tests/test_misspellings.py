"""Misspelled domains of Microsoft's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.misspellings import intended_domain

LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz0123456789-")
LONG_LABELS = st.sampled_from(["outlook", "hotmail", "windowslive"])
COUNTRY_FORMS = ["com", "de", "fr", "nl", "co.uk", "co.jp", "com.br", "com.au"]


def distance(a: str, b: str) -> int:
    """Damerau-Levenshtein distance: inserted, removed, replaced and adjacent transposed characters."""
    rows = [[max(i, j) if 0 in (i, j) else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            rows[i][j] = min(
                rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                rows[i][j] = min(rows[i][j], rows[i - 2][j - 2] + 1)
    return rows[-1][-1]


@pytest.mark.parametrize(
    ("domain", "intended"),
    [
        ("hotmial.com", "hotmail.com"),
        ("hotmal.com", "hotmail.com"),
        ("hotmaill.com", "hotmail.com"),
        ("hormail.com", "hotmail.com"),
        ("hotmial.co.uk", "hotmail.co.uk"),
        ("outlok.com", "outlook.com"),
        ("outllook.de", "outlook.de"),
        ("oulook.com.br", "outlook.com.br"),
        ("windowlive.com", "windowslive.com"),
        ("lvie.com", "live.com"),
        ("livee.nl", "live.nl"),
        ("hotmail.co", "hotmail.com"),
        ("hotmail.cm", "hotmail.com"),
        ("hotmail.comm", "hotmail.com"),
        ("outlook.con", "outlook.com"),
        ("live.ocm", "live.com"),
        ("msn.cmo", "msn.com"),
        ("hotmial.con", "hotmail.com"),
    ],
)
def test_misspelled(domain: str, intended: str) -> None:
    """A slip in the name or in .com is recognised, and the country is kept."""
    assert intended_domain(domain) == intended


@pytest.mark.parametrize(
    "domain",
    [
        *("outlook.com", "outlook.de", "outlook.com.br", "outlook.co.th", "hotmail.com", "hotmail.co.uk"),
        *("hotmail.com.ar", "live.com", "live.nl", "live.com.mx", "msn.com", "windowslive.com"),
        *("live.example.org", "outlook.office.com", "hotmial.example.com", "mail.hotmial.com"),
        *("love.com", "five.com", "olive.com", "alive.co", "lives.com", "man.com", "msg.com", "mns.com"),
        *("gnail.com", "gmail.com", "gmx.com", "mail.com", "hotmail.cam", "outlook.net", "hotmial.org"),
        *("contoso.com", "contoso.co", "contoso.con", "hotelmail.com", "lookout.com", "hotmail", "", "."),
    ],
)
def test_real_domains_are_not_misspelled(domain: str) -> None:
    """Microsoft's own domains in all countries, other words and subdomains give no suggestion."""
    assert intended_domain(domain) is None


@given(LONG_LABELS, st.data(), st.sampled_from(COUNTRY_FORMS))
def test_every_single_slip_is_recognised(label: str, data: st.DataObject, suffix: str) -> None:
    """Any one inserted, removed, replaced or transposed character of a long name is recognised."""
    at = data.draw(st.integers(0, len(label) - 1))
    letter = data.draw(LETTERS)
    typo = data.draw(
        st.sampled_from(
            [
                label[:at] + letter + label[at:],
                label[:at] + label[at + 1 :],
                label[:at] + letter + label[at + 1 :],
                label[:at] + label[at : at + 2][::-1] + label[at + 2 :],
            ]
        )
    )
    assert intended_domain(f"{typo}.{suffix}") == (None if typo == label else f"{label}.{suffix}")


@given(
    st.one_of(st.text(LETTERS, min_size=1, max_size=12), st.sampled_from(["outlook", "hotmail", "live"])),
    st.sampled_from([*COUNTRY_FORMS, "org", "net", "info", "example.com"]),
)
def test_nothing_else_is_recognised(label: str, suffix: str) -> None:
    """A suggestion is one edit away, and is never itself misspelled."""
    intended = intended_domain(f"{label}.{suffix}")
    if intended is not None:
        assert distance(label, intended.partition(".")[0]) == 1
        assert intended.partition(".")[2] == suffix
        assert intended_domain(intended) is None


@given(st.text(max_size=60))
def test_any_text(domain: str) -> None:
    """Any text gives a suggestion or none, and a suggestion differs from the text."""
    assert intended_domain(domain) != domain
