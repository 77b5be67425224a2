"""Addresses: which part of one is wrong, and why one cannot be listened on."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stages.errors import InputError
from stages.network import host_problem, listen_problem, read_token, url_problem


@pytest.mark.parametrize(
    "host",
    ["a", "pedsam_site", "a.b.", "A-1.example", "10.0.0.1", "2001:db8::7", "x" * 63, "1a", "xn--mnchen-3ya"],
)
def test_hosts_that_can_have_a_certificate(host: str) -> None:
    assert host_problem(host) is None
    assert url_problem(f"https://[{host}]:1" if ":" in host else f"https://{host}:1") is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "does not begin with https://"),
        ("https:/x", "does not begin with https://"),
        ("https://", "has no host"),
        ("https://:8443", "has no host"),
        ("https://a b", "with a character that no address has"),
        ("https://a\nb", "with a character that no address has"),
        ("https://me:secret@x", "has a user before @; a site knows its edge by certificate and token"),
        ("https://x:0", "has a port that is no number from 1 to 65535"),
        ("https://x:65536", "has a port that is no number"),
        ("https://x:+1", "has a port that is no number"),
        ("https://x#a", "has a ? or #"),
    ],
)
def test_the_part_of_a_url_that_is_wrong(url: str, words: str) -> None:
    problem = url_problem(url)
    assert problem is not None
    assert words in problem
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("error", "port", "words"),
    [
        (OSError(errno.EADDRINUSE, "x"), 8001, "(Address already in use); another process has port 8001"),
        (PermissionError(errno.EACCES, "x"), 80, "(Permission denied); ports below 1024 are for root"),
        (OSError(errno.EADDRNOTAVAIL, "x"), 80, "it is no address of this machine, where 0.0.0.0 means all"),
        (UnicodeError("label too long"), 80, "(label too long); choose another --port"),
    ],
)
def test_why_nothing_can_listen(error: OSError | UnicodeError, port: int, words: str) -> None:
    said = listen_problem(error, port, "--port")
    assert words in said
    assert said.endswith("choose another --port")


@pytest.mark.parametrize("content", [b"s3cret", b"\xef\xbb\xbfs3cret\r\n", b"\n  s3cret \t\n\n"])
def test_a_token_however_an_editor_saved_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    assert read_token(tmp_path / "token", "the token") == "s3cret"


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"a\nb", "ü".encode(), b"\xff\xfea\0", b"a\x1bb"])
def test_what_is_no_token(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match=r"^the token "):
        read_token(tmp_path / "token", "the token")
