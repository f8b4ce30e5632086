"""The PowerShell script that turns on SMTP AUTH for the mailboxes of one domain."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.labels import counted
from schemas.powershell import literal

SCRIPT_NAME = "enable-smtp-auth.ps1"
BEFORE_NAME = "before.csv"


def enable_smtp_auth(emails: Sequence[str]) -> bytes:
    """The script for these mailboxes.

    It starts with a byte order mark: Windows PowerShell 5.1 reads a script without one in the machine's code
    page, in which parts of other characters become quotes.

    Args:
        emails: Addresses; untrusted.
    """
    verb = "needs" if len(emails) == 1 else "need"
    first = f"# {counted(len(emails), 'mailbox', 'mailboxes')} {verb} SMTP AUTH.\n\n"
    listed = "\n".join(f"    {literal(email)}" for email in emails)
    return (first + _HEAD + f"$Mailboxes = @(\n{listed}\n)\n" + _BODY).encode("utf-8-sig")


_HEAD = r"""<#
.SYNOPSIS
    Turns on SMTP AUTH for the mailboxes that are listed below, one by one.

.DESCRIPTION
    Without -Apply, the script changes nothing in Exchange: it shows what it would do.
    Every run first records the present state of each mailbox in before.csv, next to this script.
    The script never changes the setting of the whole organisation; it only shows it.

.PARAMETER Apply
    Make the changes.

.PARAMETER Undo
    Go back to the state in before.csv, for the mailboxes that this script has changed.
    Without -Apply, it shows what it would do.

.EXAMPLE
    Connect-ExchangeOnline
    .\enable-smtp-auth.ps1
    .\enable-smtp-auth.ps1 -Apply
    .\enable-smtp-auth.ps1 -Undo -Apply
#>
[CmdletBinding()]
param(
    [switch] $Apply,
    [switch] $Undo
)

# Exchange's commands come from a module, which does not see this setting: they have -ErrorAction.
$ErrorActionPreference = 'Stop'

"""

_BODY = r"""
$BeforeFile = Join-Path $PSScriptRoot 'before.csv'
$Before = @{}
$Changed = 0
$Failures = 0

if (-not (Get-Command Set-CASMailbox -ErrorAction SilentlyContinue)) {
    Write-Warning 'Connect to Exchange Online first:'
    Write-Warning '    Install-Module ExchangeOnlineManagement'
    Write-Warning '    Connect-ExchangeOnline'
    exit 1
}

# 'True': off. 'False': on. Empty: as the organisation has it.
function Get-SmtpAuthState($Mailbox) {
    $Found = @(Get-CASMailbox -Identity $Mailbox -ErrorAction Stop)
    if ($Found.Count -ne 1) {
        throw 'not exactly one mailbox has this address'
    }
    [string] $Found[0].SmtpClientAuthenticationDisabled
}

function Show-State($State) {
    switch ($State) {
        'True' { 'off for the mailbox' }
        'False' { 'on for the mailbox' }
        default { 'as the organisation has it' }
    }
}

# A new file first, so that a crash leaves the old or the new state and never half of it.
function Save-Before {
    if ($Before.Count -gt 0) {
        $NewFile = $BeforeFile + '.new'
        $Before.Values | Sort-Object -Property Mailbox |
            Export-Csv -LiteralPath $NewFile -NoTypeInformation -Encoding UTF8
        Move-Item -LiteralPath $NewFile -Destination $BeforeFile -Force
    }
}

function Show-Failure($Mailbox, $Failure) {
    Write-Warning ($Mailbox + ': ' + $Failure.Exception.Message)
}

if (Test-Path -LiteralPath $BeforeFile) {
    foreach ($Row in Import-Csv -LiteralPath $BeforeFile -Encoding UTF8) {
        $Before[$Row.Mailbox] = $Row
    }
}

if ($Undo) {
    if ($Before.Count -eq 0) {
        Write-Warning 'before.csv is not there, or empty: nothing is recorded to go back to.'
        exit 1
    }
    foreach ($Mailbox in $Mailboxes) {
        if (-not $Before.ContainsKey($Mailbox) -or $Before[$Mailbox].Changed -ne 'yes') {
            continue
        }
        $Row = $Before[$Mailbox]
        $Was = $null
        if ($Row.SmtpClientAuthenticationDisabled -eq 'True') {
            $Was = $true
        }
        Write-Host ($Mailbox + ': back to ' + (Show-State $Row.SmtpClientAuthenticationDisabled))
        $Changed++
        if ($Apply) {
            try {
                Set-CASMailbox -Identity $Mailbox -SmtpClientAuthenticationDisabled $Was -ErrorAction Stop
                $Row.Changed = 'no'
                Save-Before
            }
            catch {
                Show-Failure $Mailbox $_
                $Failures++
            }
        }
    }
}
else {
    $Todo = @()
    foreach ($Mailbox in $Mailboxes) {
        try {
            $State = Get-SmtpAuthState $Mailbox
        }
        catch {
            Show-Failure $Mailbox $_
            $Failures++
            continue
        }
        # The state before the first change stays recorded; it is what -Undo goes back to.
        if (-not $Before.ContainsKey($Mailbox) -or $Before[$Mailbox].Changed -ne 'yes') {
            $Before[$Mailbox] = [pscustomobject] @{
                Mailbox = $Mailbox
                SmtpClientAuthenticationDisabled = $State
                Changed = 'no'
            }
        }
        if ($State -eq 'False') {
            Write-Host ($Mailbox + ': SMTP AUTH is on already')
        }
        else {
            $Todo += $Mailbox
        }
    }
    Save-Before

    foreach ($Mailbox in $Todo) {
        Write-Host ($Mailbox + ': turn on SMTP AUTH')
        $Changed++
        if ($Apply) {
            try {
                $Before[$Mailbox].Changed = 'yes'
                Save-Before
                Set-CASMailbox -Identity $Mailbox -SmtpClientAuthenticationDisabled $false -ErrorAction Stop
            }
            catch {
                Show-Failure $Mailbox $_
                $Failures++
            }
        }
    }

    try {
        $Off = (Get-TransportConfig -ErrorAction Stop).SmtpClientAuthenticationDisabled
        $Word = 'on'
        if ($Off) {
            $Word = 'off'
        }
        Write-Host ''
        Write-Host ('SMTP AUTH is ' + $Word + ' for the whole organisation.')
        Write-Host 'The setting of a mailbox goes first.'
        Write-Host 'To turn it on for all mailboxes, run:'
        Write-Host '    Set-TransportConfig -SmtpClientAuthenticationDisabled $false'
        $Policy = (Get-OrganizationConfig -ErrorAction Stop).DefaultAuthenticationPolicy
        if ($Policy) {
            Write-Host ('The authentication policy ' + $Policy + ' applies by default.')
            Write-Host 'It must allow Basic authentication for SMTP (AllowBasicAuthSmtp).'
        }
    }
    catch {
        Show-Failure 'Settings of the organisation' $_
    }
}

Write-Host ''
Write-Host ('Mailboxes to change: ' + $Changed + ', failures: ' + $Failures)
if ($Apply) {
    Write-Host 'Exchange takes up to an hour to apply a change.'
}
else {
    Write-Host 'Nothing was changed in Exchange. To make the changes, run it again with -Apply.'
}
if ($Failures -gt 0) {
    exit 1
}
"""
