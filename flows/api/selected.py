"""Which mailboxes a request means: the same filters in a list's query and in the body of a change."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from flows.api.openapi import DIGITS, LARGEST_ID
from schemas.addresses import domain_key
from schemas.labels import is_label
from schemas.reasons import Reason
from schemas.standing import MailboxStatus
from tasks.storage.mailboxes import Filters

LONGEST_PART = 254


class Selected(BaseModel, extra="forbid"):
    """The mailboxes of the workspace for which all filters hold; all of them without a filter."""

    status: MailboxStatus | None = None
    tag: str | None = None
    batch: Annotated[int, Field(ge=1, le=LARGEST_ID), DIGITS] | None = Field(
        None, description="The id of an import."
    )
    reason: Reason | None = Field(
        None, description="Mailboxes for which SMTP or IMAP gave this reason in the last test."
    )
    domain: str | None = Field(None, description="Mailboxes of this domain, such as contoso.com.")
    email: Annotated[str, Field(min_length=1, max_length=LONGEST_PART, pattern=r"^[!-~]+$")] | None = Field(
        None, description="Mailboxes with this text in their address."
    )

    def filters(self, workspace: str) -> Filters | None:
        """The filters of the one selection; None if no mailbox can have such a tag or domain."""
        domain = None if self.domain is None else domain_key(self.domain)
        if (self.tag is not None and not is_label(self.tag)) or (self.domain is not None and domain is None):
            return None
        part = None if self.email is None else self.email.casefold()
        return Filters(self.status, self.tag, self.batch, self.reason, domain, part, workspace=workspace)
