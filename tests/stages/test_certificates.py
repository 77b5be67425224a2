"""The dates of a certificate."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from stages.certificates import validity
from tests.support.keys import keys_for

FROM_2050 = -timedelta(days=365 * 30)  # dates from 2050 on are written in another form


@pytest.mark.parametrize("ago", [None, FROM_2050])
@pytest.mark.parametrize("name", ["server.pem", "client_ca.pem"])
def test_dates_are_read_as_cryptography_reads_them(tmp_path: Path, ago: timedelta | None, name: str) -> None:
    path = keys_for(tmp_path, days=3650, ago=ago) / name
    pem = path.read_text()
    expected = x509.load_pem_x509_certificate(pem.encode())
    assert validity(path) == (expected.not_valid_before_utc, expected.not_valid_after_utc)
    path.write_text(f"Subject: a\n{pem}{pem}")
    assert validity(path) == (expected.not_valid_before_utc, expected.not_valid_after_utc)


@pytest.mark.parametrize("content", ["", "nonsense", "AAAA", "MAAwAA==", "MA==", "MIIB"])
def test_what_has_no_dates_is_told(tmp_path: Path, content: str) -> None:
    for text in (content, f"-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----"):
        (tmp_path / "x.pem").write_text(text)
        with pytest.raises(ValueError):
            validity(tmp_path / "x.pem")
    with pytest.raises(OSError, match="absent"):
        validity(tmp_path / "absent.pem")
