"""A certificate authority for tests, made once per run folder, that can vouch for the exchange's name and nothing else.

Called by the front. Its own key signs one certificate and is never written down; what it may sign is limited in its
certificate besides, so that trusting it opens no door to any other server.
"""

import datetime as dt
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS = 800
_RENEW_DAYS = 30
_LOOPBACK = ipaddress.IPv4Network("127.0.0.0/8")


class Authority(NamedTuple):
    """Two PEM files: what clients are told to trust, and the front's own key with its certificate."""

    certificate: Path
    identity: Path


def keep_authority(folder: Path, hosts: Sequence[str]) -> Authority:
    """The authority of a run folder for these hosts; made when there is none, it is about to end or names others."""
    found = Authority(folder / "sandbox-authority.pem", folder / "secrets" / "sandbox-front.pem")
    now = dt.datetime.now(dt.UTC)
    if not _is_usable(found, hosts, now):
        _make(found, hosts, now)
    return found


def _is_usable(found: Authority, hosts: Sequence[str], now: dt.datetime) -> bool:
    try:
        authority = x509.load_pem_x509_certificate(found.certificate.read_bytes())
        leaf = x509.load_pem_x509_certificate(found.identity.read_bytes())
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    is_lasting = leaf.not_valid_after_utc > now + dt.timedelta(days=_RENEW_DAYS)
    return is_lasting and names.get_values_for_type(x509.DNSName) == list(hosts)


def _make(wanted: Authority, hosts: Sequence[str], now: dt.datetime) -> None:
    authority_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("OBservator sandbox test authority")
    begin, end = now - dt.timedelta(days=1), now + dt.timedelta(days=_DAYS)

    def builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    permitted = [*map(x509.DNSName, hosts), x509.IPAddress(_LOOPBACK)]
    authority = (
        builder(authority_name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted_subtrees=permitted, excluded_subtrees=None), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        builder(_name("OBservator sandbox"), leaf_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, hosts))), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(wanted.identity, key + leaf.public_bytes(pem), 0o600)
    _write(wanted.certificate, authority.public_bytes(pem), 0o644)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Appear whole or not at all; a private file is never readable by others, not for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    Path(temporary).replace(path)
