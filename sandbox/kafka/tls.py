"""A certificate authority of our own, a server certificate and a client certificate, in PEM."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS: Final = 365


@dataclass(frozen=True)
class Files:
    """Where the certificates lie."""

    ca: Path
    server: Path
    """Private key and certificate in one file, as Kafka's PEM key store wants them."""
    client_cert: Path
    client_key: Path


@dataclass(frozen=True)
class _Issued:
    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    @property
    def cert_pem(self) -> bytes:
        return self.cert.public_bytes(serialization.Encoding.PEM)


def issue(folder: Path, client_name: str) -> Files:
    """Write all files to `folder`, unless an earlier call did. They hold for a year.

    The server's certificate names 127.0.0.1 and localhost; the client's has `client_name`
    as its common name.
    """
    files = Files(
        ca=folder / "ca.pem",
        server=folder / "server.pem",
        client_cert=folder / "client.pem",
        client_key=folder / "client.key",
    )
    if files.client_key.exists():  # the last one to be written
        return files
    folder.mkdir(parents=True, exist_ok=True)
    ca = _certificate("sandbox CA", None)
    server = _certificate("localhost", ca)
    client = _certificate(client_name, ca)
    files.ca.write_bytes(ca.cert_pem)
    files.server.write_bytes(server.key_pem + server.cert_pem)
    files.client_cert.write_bytes(client.cert_pem)
    files.client_key.write_bytes(client.key_pem)
    return files


def _certificate(name: str, issuer: _Issued | None) -> _Issued:
    """One certificate; without an issuer it is a CA that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_ca = issuer is None
    signer_name = subject if issuer is None else issuer.cert.subject
    signer_key = key if issuer is None else issuer.key
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        # The next three are what the strict checks of Python 3.13 insist on.
        .add_extension(_usage(is_ca=is_ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()),
            critical=False,
        )
    )
    if not is_ca:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    return _Issued(key, builder.sign(signer_key, hashes.SHA256()))


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
