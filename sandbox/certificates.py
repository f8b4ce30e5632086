"""The certificates of the servers: a valid one, and one for each fault."""

import ssl
from datetime import UTC, datetime, timedelta

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAMES = ("localhost", "127.0.0.1")
STRANGER = "mail.contoso.example"


def server_context(ca: trustme.CA, fault: str) -> ssl.SSLContext:
    """A server context with a certificate for localhost and 127.0.0.1.

    Args:
        ca: Signs the certificate.
        fault: wrong-name, expired or self-signed; anything else gives a valid certificate.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.num_tickets = 1  # one is enough for a client that resumes its sessions
    _certificate(ca, fault).configure_cert(context)
    return context


def _certificate(ca: trustme.CA, fault: str) -> trustme.LeafCert:
    if fault == "wrong-name":
        return ca.issue_cert(STRANGER)
    if fault == "expired":
        yesterday = datetime.now(UTC) - timedelta(days=1)
        return ca.issue_cert(*NAMES, not_before=yesterday - timedelta(days=90), not_after=yesterday)
    if fault == "self-signed":
        return _self_signed()
    return ca.issue_cert(*NAMES)


def _self_signed() -> trustme.LeafCert:
    """A self-signed certificate for localhost, which trustme cannot issue."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=90))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return trustme.LeafCert(private, certificate.public_bytes(Encoding.PEM), [])
