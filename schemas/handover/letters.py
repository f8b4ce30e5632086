"""A short letter to the owner of a mailbox."""

from __future__ import annotations

import textwrap

from schemas.labels import shortened
from schemas.outcomes import (
    Action,
    Outcome,
    needs_password,
    utc,
)
from schemas.reasons import Reason

WIDTH = 100
_NEW_AT_WORK = """\
What to do:
1. Sign in at https://mysignins.microsoft.com/security-info
2. Choose “Add sign-in method”, then “App password”.
3. Give the new app password to the person who sent you this letter: by phone or through a password
   manager, not by email.

If “App password” is not on the list, your administrator has to allow it. Your own password stays as it is.
"""
_NEW_PERSONAL = """\
What to do:
1. Sign in at https://account.microsoft.com/security
2. Choose “Advanced security options”, then “Create a new app password”.
3. Give the new app password to the person who sent you this letter: by phone or through a password
   manager, not by email.

Microsoft has turned off password sign-in for personal accounts since September 2024, so that the new app
password may be refused, too. Your own password stays as it is.
"""
_ON_THE_WEB = """\
What to do:
1. Sign in on the web at {address}
2. {step}
3. Tell the person who sent you this letter when it is done.
"""
_TURN_ON_IMAP = "Open the settings for mail, and turn on IMAP."
_FOLLOW = "Follow the instructions there until you see your mail."


def letter(action: Action, outcome: Outcome) -> str:
    """The letter to an owner: which mailbox, what is wrong, and what to do."""
    email = shortened(outcome.email)
    answer = action.example and next(
        (one for one in outcome.answers.values() if one.code == action.code), action.example
    )
    when = f" (tested {utc(answer.at)})" if answer else ""
    if needs_password(action):
        steps = _NEW_PERSONAL if outcome.personal else _NEW_AT_WORK
    else:
        address = "https://outlook.live.com" if outcome.personal else "https://outlook.office.com"
        step = _TURN_ON_IMAP if action.code.startswith(Reason.IMAP_OFF) else _FOLLOW
        steps = _ON_THE_WEB.format(address=address, step=step)
    name = shortened(outcome.name or "", 200)
    return (
        f"1 mailbox: {email}\n\n"
        f"Hello{f' {name}' if name else ''},\n\n"
        f"the mailbox {email} cannot be connected{when}.\n"
        f"{textwrap.fill(shortened(f'{action.heading} {action.meaning}'), WIDTH)}\n\n"
        f"{steps}"
    )
