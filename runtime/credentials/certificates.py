"""Certificates of one site: an authority of its own and what it signs (X.509 as RFC 5280 has it, P-256).

Nothing in them links two sites: serial numbers are random, names are of the one site, and the dates are
moved by random amounts, so that certificates made in the same second do not show it.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 7300  # outlives every renewal for ten years
_BEFORE_S = (86_400, 30 * 86_400)  # a certificate is valid from a moment so long ago: clocks differ
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM; `until` is when the certificate expires (UTC)."""

    certificate: bytes
    key: bytes = field(repr=False)
    until: datetime


@dataclass(frozen=True)
class Authority:
    """Signs the certificates of one site."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def new(cls, site: str, now: datetime) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{site} authority")
        builder = _builder(subject, subject, key, key, now, AUTHORITY_DAYS)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def from_pem(cls, certificate: bytes, key: bytes) -> Authority:
        """Raises ValueError when these are not a certificate and its P-256 key, unencrypted PEM."""
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except TypeError as exc:
            raise ValueError("its key is encrypted") from exc
        public = x509.load_pem_x509_certificate(certificate)
        if not isinstance(private, ec.EllipticCurvePrivateKey) or public.public_key() != private.public_key():
            raise ValueError("its certificate and key do not belong together")
        return cls(public, private)

    @property
    def until(self) -> datetime:
        return self.certificate.not_valid_after_utc

    def to_pem(self) -> Pair:
        return _pair(self.certificate, self.key)

    def server(self, host: str, days: int, now: datetime) -> Pair:
        """A certificate for the server at `host`, a name or an IP address, valid for `days` or a bit more."""
        return self._issue(host, days, now, _SERVER, x509.SubjectAlternativeName([_general_name(host)]))

    def client(self, site: str, days: int, now: datetime) -> Pair:
        """A certificate that lets its holder use `site`, valid for `days` or a bit more."""
        return self._issue(f"{site} client", days, now, _CLIENT, None)

    def _issue(
        self,
        name: str,
        days: int,
        now: datetime,
        usage: x509.ObjectIdentifier,
        addresses: x509.SubjectAlternativeName | None,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(name), self.certificate.subject, key, self.key, now, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if addresses is not None:
            builder = builder.add_extension(addresses, critical=False)
        return _pair(builder.sign(self.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    """What every certificate has. It is valid for up to a tenth longer than `days` (see the module)."""
    from_s = _BEFORE_S[0] + secrets.randbelow(_BEFORE_S[1] - _BEFORE_S[0])
    until = now + timedelta(days=days, seconds=secrets.randbelow(days * 8640))
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=from_s))
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # 64: RFC 5280, ub-common-name


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(signs_certificates: bool) -> x509.KeyUsage:
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


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate.public_bytes(pem), private, certificate.not_valid_after_utc)
