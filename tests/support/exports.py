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
        "name,url,additional_urls,username,password,note,cardholdername,cardnumber,cvc,pin,expirydate,zipcode,"
        "folder,full_name,phone_number,email,address1,address2,city,country,state,type",
        "Outlook,https://outlook.com,,{email},{password},,,,,,,,,,,,,,,,,password",
        None,
        None,
    ),
    "Dashlane": (
        "username,username2,username3,title,password,note,url,category,otpUrl",
        f"{{email}},,,Outlook,{{password}},,https://outlook.com,Mail,otpauth://totp/x?secret={TOTP}",
        None,
        TOTP,
    ),
    "RoboForm": (
        "Name,Url,MatchUrl,Login,Pwd,Note,Folder,RfFieldsV2",
        "Outlook,https://outlook.com,,{email},{password},,/,",
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
    "Microsoft Entra, new users": (
        "Name [displayName] Required,User name [userPrincipalName] Required,"
        "Initial password [passwordProfile] Required,Block sign in (Yes/No) [accountEnabled] Required",
        "Ann Bell,{email},{password},No",
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
        "from_name,from_email,user_name,password,smtp_host,smtp_port,imap_host,imap_port,max_email_per_day",
        "Ann,{email},{email},{password},x,587,y,993,50",
        "Ann",
        None,
    ),
    "CeyMail": (
        "from_name,from_email,smtp_host,smtp_port,smtp_username,smtp_password,imap_host,imap_port,"
        "imap_username,imap_password",
        "Ann,{email},x,587,{email},{password},y,993,{email},{password}",
        "Ann",
        None,
    ),
    "BrandJet": (
        "email,password,smtpHost,smtpPort,smtpTls,imapHost,imapPort,imapTls,fromName,dailyLimit,warmupEnabled",
        "{email},{password},x,587,starttls,y,993,ssl,Ann Bell,30,true",
        "Ann Bell",
        None,
    ),
    "WarmySender": (
        "email,from_name,smtp_host,smtp_port,smtp_username,smtp_password,imap_host,imap_port,imap_username,"
        "imap_password",
        "{email},Ann,x,587,{email},{password},y,993,{email},{password}",
        "Ann",
        None,
    ),
    "Woodpecker": (
        "SMTP email,SMTP login,SMTP password,SMTP server,SMTP port,SMTP from name,IMAP email,IMAP password,"
        "IMAP server,IMAP port",
        "{email},{email},{password},x,587,Ann,{email},{password},y,993",
        "Ann",
        None,
    ),
}


def export_of(program: str, email: str, password: str) -> str:
    """The file that a program exports for one mailbox."""
    header, row, _, _ = EXPORTS[program]
    return f"{header}\n{row.replace('{email}', email).replace('{password}', password)}\n"
