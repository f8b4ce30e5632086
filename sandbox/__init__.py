"""An Outlook stand-in on loopback for the demo and the tests: SMTP with STARTTLS and IMAP over TLS."""
