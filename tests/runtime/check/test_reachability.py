"""What is read of a site's certificate."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from runtime.check.reachability import Certificate

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def certificate_of(common_name: str) -> bytes:
    """A certificate by and for this name, in DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.warns(UserWarning, match="Attribute's length"):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name, _validate=False)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOON, NOON + timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_names_in_a_certificate_are_fit_to_be_shown() -> None:
    found = Certificate.from_der(certificate_of("\x1b[31m\u202e\n" + "x" * 5000))
    assert found.subject == found.issuer
    assert found.subject.startswith("?[31m??xxx")
    assert len(found.subject) == 160
