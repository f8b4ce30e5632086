"""What programs export: one small file of each, for tests and for the table in the documentation."""

from __future__ import annotations

TOTP = "JBSWY3DPEHPK3PXP"

# Program → its header, a row, and what becomes of the row: name and TOTP secret.
EXPORTS: dict[str, tuple[str, str, str | None, str | None]] = {
    "Bitwarden": (
        "folder,favorite,type,name,notes,fields,reprompt,login_uri,login_username,login_password,login_totp",
        f",,login,Outlook,,,0,https://outlook.com,{{email}},{{password}},{TOTP}",
        None,
        TOTP,
    ),
    "1Password": (
        "Title,Url,Username,Password,OTPAuth,Favorite,Archived,Tags,Notes",
        f"Outlook,https://outlook.com,{{email}},{{password}},otpauth://totp/x?secret={TOTP},false,false,,",
        None,
        TOTP,
    ),
    "KeePassXC": (
        '"Group","Title","Username","Password","URL","Notes","TOTP","Icon","Last Modified","Created"',
        '"Root","Outlook","{email}","{password}","https://outlook.com","","","0","",""',
        None,
        None,
    ),
    "KeePass": (
        '"Account","Login Name","Password","Web Site","Comments"',
        '"Outlook","{email}","{password}","https://outlook.com",""',
        None,
        None,
    ),
    "LastPass": (
        "url,username,password,totp,extra,name,grouping,fav",
        f"https://outlook.com,{{email}},{{password}},{TOTP},,Outlook,Mail,0",
        None,
        TOTP,
    ),
    "Chrome": (
        "name,url,username,password,note",
        "outlook.com,https://login.live.com,{email},{password},",
        None,
        None,
    ),
    "Firefox": (
        '"url","username","password","httpRealm","formActionOrigin","guid","timeCreated"',
        '"https://login.live.com","{email}","{password}",,"","{{1}}","1"',
        None,
        None,
    ),
    "Safari": (
        "Title,URL,Username,Password,Notes,OTPAuth",
        "Outlook,https://outlook.com,{email},{password},,",
        None,
        None,
    ),
    "Proton Pass": (
        "type,name,url,email,username,password,note,totp,createTime",
        f"login,Outlook,https://outlook.com,{{email}},{{email}},{{password}},,{TOTP},1",
        None,
        TOTP,
    ),
    "NordPass": (
        "name,url,username,password,note,cardholdername",
        "Outlook,https://outlook.com,{email},{password},,",
        None,
        None,
    ),
    "Dashlane": (
        "username,username2,username3,title,password,note,url,category,otpUrl",
        "{email},,,Outlook,{password},,https://outlook.com,Mail,",
        None,
        None,
    ),
    "Microsoft 365 admin centre": (
        "Display name,First name,Last name,Licenses,User principal name,Password",
        "Ann Bell,Ann,Bell,E3,{email},{password}",
        "Ann Bell",
        None,
    ),
    "Microsoft Entra": (
        "userPrincipalName,displayName,mail,id,Password",
        "{email},Ann Bell,{email},0,{password}",
        "Ann Bell",
        None,
    ),
    "Exchange PowerShell": (
        '"Name","DisplayName","UserPrincipalName","PrimarySmtpAddress","Password"',
        '"ann","Ann Bell","{email}","{email}","{password}"',
        "Ann Bell",
        None,
    ),
    "Migration batch": ("EmailAddress,UserName,Password", "{email},{email},{password}", None, None),
    "Google Workspace": (
        "First Name [Required],Last Name [Required],Email Address [Required],Password [Required]",
        "Ann,Bell,{email},{password}",
        "Ann Bell",
        None,
    ),
    "Instantly": (
        "Email,First Name,IMAP Username,IMAP Password,IMAP Host,SMTP Username,SMTP Password,SMTP Host",
        "{email},Ann,{email},{password},x,{email},{password},y",
        None,
        None,
    ),
    "Smartlead": (
        "from_name,from_email,smtp_host,smtp_port,smtp_username,smtp_password,imap_username,imap_password",
        "Ann,{email},x,587,{email},{password},{email},{password}",
        "Ann",
        None,
    ),
}


def export_of(program: str, email: str, password: str) -> str:
    """The file that a program exports for one mailbox."""
    header, row, _, _ = EXPORTS[program]
    return f"{header}\n{row.replace('{email}', email).replace('{password}', password)}\n"
