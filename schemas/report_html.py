"""The report of an import as one HTML file, which needs nothing else and prints well."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from schemas.labels import counted, shortened
from schemas.outcomes import (
    Action,
    Answered,
    Document,
    Outcome,
    actions,
    filled_in,
    forecast,
    named_domains,
    result_of,
    utc,
    who_has_to_act,
)
from schemas.reasons import Actor, Protocol, Reason
from schemas.report_style import GENERATOR, SCRIPT, STYLE

ADDRESSES_NAMED = 8
# What a row can be: the class of its colour, and the words of the legend.
KINDS = {
    "works": "work",
    "half": "can only send or only receive",
    "wait": "wait for a test",
    "fails": "fail",
    "skipped": "skipped",
}
HEADINGS = {
    Actor.ADMIN: "For the Microsoft 365 admin",
    Actor.OWNER: "For the owners of the mailboxes",
    Actor.UPLOADER: "For the person who made the file",
    Actor.OPERATOR: "For the operator of this program",
    Actor.WAIT: "Tested again without you",
    Actor.NOBODY: "No password opens these",
}
COLUMNS = ("Line", "Mailbox", "Result", "Why", "What the servers said")


def report_html(document: Document, outcomes: Iterable[Outcome]) -> str:
    """Make the report of an import as a complete HTML document.

    It requests nothing, and its Content-Security-Policy allows only its own style sheet and script. Text from
    the file or from a server is escaped, without control characters, and cut to 500 characters.
    """
    rows = list(outcomes)
    found = actions(rows)
    title = f"Import {document.import_id}: {_text(document.file)}"
    parts = [
        f"<header><h1>{title}</h1>{_about(document)}</header>",
        _picture(rows),
        f'<p class="who">{_who(rows)}</p>',
    ]
    if warning := forecast(rows):
        parts.append(f'<aside class="note"><p>{_text(warning)}</p></aside>')
    parts += _sections(found)
    parts.append(_table(rows, found))
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{GENERATOR}\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _policy() -> str:
    return (
        f"default-src 'none'; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _text(text: str) -> str:
    """Text for an element or a quoted attribute."""
    return escape(shortened(text))


def _foreign(text: str) -> str:
    """Text from the file or from a server, whose direction must not change that of the text around it."""
    return f"<bdi>{_text(text)}</bdi>"


def _about(document: Document) -> str:
    tag = f", tag {_foreign(document.tag)}" if document.tag else ""
    return (
        f'<p class="quiet">Imported {utc(document.created_at)} into workspace {_foreign(document.workspace)}'
        f"{tag}. {_text(str(document))}.</p>"
    )


def _who(rows: Sequence[Outcome]) -> str:
    if sentence := who_has_to_act(rows):
        return f"{_text(sentence[0].upper() + sentence[1:])}."
    return "There is nothing to do."


def kind_of(outcome: Outcome) -> str:
    """What a row is: a key of `KINDS`."""
    if outcome.status:
        return {"active": "works", "partial": "half", "pending": "wait"}.get(outcome.status, "fails")
    return "fails" if outcome.result == "failed" else "skipped"


def _picture(rows: Sequence[Outcome]) -> str:
    counts = Counter(map(kind_of, rows))
    listed = [(kind, words, counts[kind]) for kind, words in KINDS.items() if counts[kind]]
    label = ", ".join(f"{count:,} {words}" for _, words, count in listed)
    bars, at = "", 0.0
    for kind, _, count in listed:
        width = 1000 * count / len(rows)
        bars += f'<rect class="{kind}" x="{at:.2f}" width="{width:.2f}" height="26"/>'
        at += width
    legend = "".join(
        f'<li class="{kind}"><b>{count:,}</b> <span>{words}</span></li>' for kind, words, count in listed
    )
    return (
        f'<figure><svg viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f"{bars}</svg><figcaption><ul>{legend}</ul></figcaption></figure>"
    )


def _sections(found: Sequence[Action]) -> Iterator[str]:
    """A section for each reason, below a heading for each actor."""
    totals = Counter[Actor]()
    for action in found:
        totals[action.actor] += len(action.outcomes)
    before = None
    for number, action in enumerate(found, start=1):
        if action.actor is not before:
            yield f"<h2>{HEADINGS[action.actor]} <span>{totals[action.actor]:,}</span></h2>"
            before = action.actor
        noun = ("row", "rows") if action.of_rows else ("mailbox", "mailboxes")
        count = counted(len(action.outcomes), *noun)
        remedy = filled_in(action.remedy, action.outcomes[0])
        yield (
            f'<section class="reason" id="r{number}"><span class="count">{count}</span>'
            f"<h3>{_text(action.title)}</h3>"
            f"<p>{_text(action.meaning)} <b>{with_commands(remedy)}</b></p>"
            f'<p class="whom">{_whom(action)} <button type="button" data-k="r{number}" hidden>'
            "Show in the table</button></p></section>"
        )


# A command of PowerShell with its parameters, as the remedies have it.
_COMMAND = re.compile(r"((?:Set|Get)-[A-Z]\w+(?: -[A-Z]\w+(?: (?:'(?:[^']|'')*'|\$\w+))?)*)")


_PARAMETER = re.compile(r"(?<= )-[A-Z][A-Za-z]+")
KEPT_TOGETHER = r"<span>\g<0></span>"


def with_commands(text: str) -> str:
    """Text in which each command is code that breaks only before a parameter, not after its hyphen."""
    parts = [escape(part) for part in _COMMAND.split(shortened(text, 2000))]
    parts[1::2] = [f"<code>{_PARAMETER.sub(KEPT_TOGETHER, command)}</code>" for command in parts[1::2]]
    return "".join(parts)


def _whom(action: Action) -> str:
    if action.of_rows:
        lines = [f"{one.line:,}" for one in action.outcomes if one.line is not None]
        word = "Line" if len(lines) == 1 else "Lines"
        named = f"{word} {', '.join(lines[:ADDRESSES_NAMED])}" if lines else "Lines not stored"
        left = max(0, len(lines) - ADDRESSES_NAMED)
    else:
        emails = [_foreign(one.email) for one in action.outcomes[:ADDRESSES_NAMED]]
        domains = {one.domain for one in action.outcomes}
        across = f"{_text(named_domains(action.outcomes))}: " if len(domains) > 1 else ""
        named = across + ", ".join(emails)
        left = len(action.outcomes) - len(emails)
    return f"{named} and {left:,} more." if left else f"{named}."


def _table(rows: Sequence[Outcome], found: Sequence[Action]) -> str:
    number_of = {
        id(outcome): number for number, action in enumerate(found, start=1) for outcome in action.outcomes
    }
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    order = list(KINDS)
    ranked = sorted(
        rows, key=lambda row: (number_of.get(id(row), len(rows)), order.index(kind_of(row)), row.line or 0)
    )
    body = "\n".join(_row(row, number_of.get(id(row)), found) for row in ranked)
    kinds = Counter(map(kind_of, rows))
    by_kind = "".join(
        f'<option value="{kind}">{words[0].upper()}{words[1:]} ({kinds[kind]:,})</option>'
        for kind, words in KINDS.items()
        if kinds[kind]
    )
    by_reason = "".join(
        f'<option value="r{number}">{_text(shortened(action.title, 60))} ({len(action.outcomes):,})</option>'
        for number, action in enumerate(found, start=1)
    )
    reasons = f'<optgroup label="By reason">{by_reason}</optgroup>' if by_reason else ""
    return (
        '<h2 id="rows">All rows</h2>'
        '<form hidden><input type="search" aria-label="Search" placeholder="Search for an address, a domain, '
        'a reason …"><select aria-label="Show"><option value="">All rows</option>'
        f'<optgroup label="By result">{by_kind}</optgroup>{reasons}</select><output></output></form>'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    )


def _row(outcome: Outcome, number: int | None, found: Sequence[Action]) -> str:
    kind = kind_of(outcome)
    keys = f"{kind} r{number}" if number else kind
    name = f"<small>{_foreign(outcome.name)}</small>" if outcome.name else ""
    line = "" if outcome.line is None else f"{outcome.line:,}"
    return (
        f'<tr data-k="{keys}"><td>{line}</td><td>{_foreign(outcome.email)}{name}</td>'
        f'<td class="{kind}">{result_of(outcome)}</td><td>{_why(outcome, number, found)}</td>'
        f"<td>{_said(outcome)}</td></tr>"
    )


def _why(outcome: Outcome, number: int | None, found: Sequence[Action]) -> str:
    """The reason, with a link to its section, which says what to do."""
    warning = f"<small>Warning: {_foreign(outcome.warning)}</small>" if outcome.warning else ""
    if number is None:
        return f"{_foreign(outcome.sentence) if outcome.sentence else ''}{warning}"
    return f'<a href="#r{number}">{_text(found[number - 1].title)}</a>{warning}'


def _said(outcome: Outcome) -> str:
    if len(outcome.accepted) == len(Protocol):
        return "SMTP and IMAP: accepted"
    return "".join(
        f'<span class="said">{protocol.upper()}: {_answer(answer)}</span>'
        for protocol, answer in outcome.answers.items()
    )


def _answer(answer: Answered) -> str:
    if answer.code == Reason.OK:
        return "accepted"
    return _foreign(answer.server_text) if answer.server_text else _text(answer.title)
