"""TLS as a server: the files that `pedsam keys` makes for one, and the settings made of them."""

from __future__ import annotations

import ssl
from pathlib import Path

from stages.errors import InputError

CERTIFICATE, KEY, CLIENT_CA, TOKEN = "server.pem", "server.key", "client_ca.pem", "token"


def server_context(folder: Path, advice: str, *, client_certificates: bool) -> ssl.SSLContext:
    """TLS 1.2 or later with the certificate and key in `folder`, and without asking for a passphrase.

    With `client_certificates` a client must show one that CLIENT_CA signed. Raises InputError, which ends in
    `advice`, for files that cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, folder, advice)
    if client_certificates:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(folder / CLIENT_CA)
        except OSError as exc:  # ssl.SSLError is one
            raise InputError(f"{CLIENT_CA} in {folder} cannot be used ({exc}); {advice}") from exc
    return context


def load_certificate(context: ssl.SSLContext, folder: Path, advice: str) -> None:
    """Have `context` show the certificate in `folder` from now on. Raises InputError ending in `advice`."""
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password="")  # no password: it may ask
    except OSError as exc:
        raise InputError(f"{CERTIFICATE} with {KEY} in {folder} cannot be used ({exc}); {advice}") from exc
