"""sites.toml: what is read and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.check.check import SiteReport
from runtime.sites.config import SiteConfig, operator_caps, read_sites
from stages.errors import InputError

SITE = 'name = "a"\noperator = "alpha"\nurl = "https://site.example:8443/"\n'


def read(tmp_path: Path, text: str, insecure: bool = False) -> tuple[SiteConfig, ...]:
    path = tmp_path / "sites.toml"
    path.write_text(text)
    return read_sites(path, insecure)


def site(more: str = "", **changes: str) -> str:
    """One [[site]] table; values are TOML, an empty one leaves the key out."""
    fields = {"name": '"a"', "operator": '"alpha"', "url": '"https://site.example:8443"', **changes}
    return (
        "[[site]]\n" + "".join(f"{key} = {value}\n" for key, value in fields.items() if value) + more + "\n"
    )


def test_an_entry_in_full(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    text = site(
        'token_file = "token"',
        ca='"ca.pem"',
        cert='"c.pem"',
        key='"/keys/c.key"',
        cap="5",
        spare="false",
    )
    (entry,) = read(tmp_path, text)
    assert entry == SiteConfig(
        "a",
        "alpha",
        "https://site.example:8443",
        "s3cret",
        tmp_path / "ca.pem",
        tmp_path / "c.pem",
        Path("/keys/c.key"),
        5,
        False,
        tmp_path / "token",
    )


def test_the_token_is_in_no_printed_configuration(tmp_path: Path) -> None:
    """Nor in what prints one, as an error report or a debugger does."""
    (tmp_path / "token").write_text("s3cret\n")
    (entry,) = read(tmp_path, site('token_file = "token"'))
    assert entry.token == "s3cret"  # noqa: S105
    assert "s3cret" not in f"{entry!r} {entry} {[entry]} {SiteReport(entry)}"


def test_only_name_operator_and_url_are_needed(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, "[[site]]\n" + SITE)
    assert entry == SiteConfig("a", "alpha", "https://site.example:8443")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold one [[site]] table a site"),
        ("site = []", "must hold one [[site]] table"),
        ("site = [1, 2]", "must hold one [[site]] table"),
        ("[site]\nname = 1", "must hold one [[site]] table"),
        ("version = 1\n" + site(), "and nothing else, found version"),
        ("[[site]", "cannot be read"),
        (site(name=""), "site without a name has no name"),
        (site(name='""'), "has no name"),
        (site(name="1"), "line 2: name of site 1 is 1, expected text"),
        (site(operator=""), "site a has no operator"),
        (site(url=""), "site a has no url"),
        (site(port="80"), "unknown key 'port'"),
        (site(cap='"5"'), "line 5: cap of site a is '5', expected a whole number"),
        (site(cap="true"), "cap of site a is True, expected a whole number"),
        (site(cap="0"), "cap of site a is 0, expected at least 1"),
        (site(cap="-1"), "expected at least 1"),
        (site(spare="1"), "spare of site a is 1, expected true or false"),
        (site(cert='"c.pem"'), "needs both cert and key"),
        (site(key='"c.key"'), "needs both cert and key"),
        (site(url='"ftp://site.example"'), "expected like https://host:port"),
        (site(url='"site.example:8001"'), "expected like https://host:port"),
        (site(url='"https://"'), "url of site a has no host"),
        (site() + "\n\n" + site(name='"b"', url='"https://x:y:z"'), "line 11: url of site b has a port"),
        ('site = [{name = "a", operator = "b", url = "x"}]', "site[0].url: url of site a does not begin"),
        (site(url='"https://[::1"'), "expected like https://host:port"),
        (site(url='"https://site.example:99999"'), "expected like https://host:port"),
        (site(url='"https://site.example:http"'), "expected like https://host:port"),
        (site(url='"https://me:secret@site.example"'), "has a user before @"),
        (site(url='"https://site.example/?a=secret"'), "expected like https://host:port"),
        (site('token_file = "absent"'), "line 5: token_file of site a"),
        (site(url='"ftp://me:secret@site.example"'), "url of site a does not begin with https://"),
        (site(url='"https://site.example/a b?a=secret"'), "url of site a is https://site.example/…, with"),
        (site(url='"https://me:secret\u2100@site.example"'), "url of site a has a host that cannot be read"),
        (site(url='["https://me:secret@a"]'), "url of site a is a list or a table, expected text"),
        (site(url="5"), "url of site a is 5, expected text"),
        (site(name='"a\\u001b[2J"', cap="0"), "cap of site 'a\\x1b[2J' is 0"),
        (site(name=f'"{"x" * 300}"', cap="0"), "cap of site 'xxx"),
        (site() + site().replace('"a"', '"\\u001b"') + site(name='"\\u001b"'), "two sites are named '\\x1b'"),
        (site('token_file = "empty"'), "token_file of site a is no token"),
        (site('token_file = "lines"'), "token_file of site a is no token"),
        (site() + site(), "two sites are named a"),
        (site(spare="true"), "every site is a spare"),
        (site(cap="3") + site(name='"b"', cap="4"), "different caps [3, 4]"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "lines").write_text("one\r\ntwo\r\n")
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert "sites.toml" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value) or "[[site]" in text  # the TOML parser's own words


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.toml cannot be read"):
        read_sites(tmp_path / "absent.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.9.1"])
def test_plain_http_is_taken_on_loopback(tmp_path: Path, host: str) -> None:
    (entry,) = read(tmp_path, site(url=f'"http://{host}:8001"'))
    assert entry.ssl_context() is None


@pytest.mark.parametrize("host", ["203.0.113.7", "site.example", "localhost.site.example", "128.0.0.1"])
def test_plain_http_to_others_needs_insecure(tmp_path: Path, host: str) -> None:
    text = site(url=f'"http://{host}:8001"')
    with pytest.raises(InputError, match=r"plain http.* --insecure"):
        read(tmp_path, text)
    assert read(tmp_path, text, insecure=True)[0].url == f"http://{host}:8001"


def test_caps_belong_to_operators(tmp_path: Path) -> None:
    sites = read(
        tmp_path,
        site(cap="3")
        + site(name='"b"')
        + site(name='"c"', operator='"gamma"', url='"https://other.example"')
        + site(name='"d"', cap="3"),
    )
    assert operator_caps(sites, 9) == {"alpha": 3, "gamma": 9}


@pytest.mark.parametrize("broken", ["ca", "cert"])
def test_files_that_are_no_certificates_are_refused(tmp_path: Path, broken: str) -> None:
    (tmp_path / "not.pem").write_text("nothing")
    text = site(ca='"not.pem"') if broken == "ca" else site(cert='"not.pem"', key='"not.pem"')
    with pytest.raises(InputError, match="site a: its ca, cert or key file cannot be used"):
        read(tmp_path, text)[0].ssl_context()


LABEL = "x" * 64


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (f"{LABEL}.example", "has a part of 64 characters between its dots, expected 1 to 63"),
        ("a..example", "has a part of 0 characters between its dots"),
        (".example", "has a part of 0 characters"),
        ("example..", "has a part of 0 characters"),
        (".", "has a part of 0 characters"),
        (".".join(["x" * 50] * 6), "has 305 characters, expected at most 253"),
        ("-a.example", "has the part '-a', which begins or ends with a hyphen"),
        ("a*.example", "has '*': a name has letters of a to z"),
        ("256.1.1.1", "looks like an IPv4 address and is none"),
        ("127.1", "looks like an IPv4 address and is none"),
        ("2130706433", "looks like an IPv4 address and is none"),
        ("0x7f.0.0.0x1", "looks like an IPv4 address and is none"),
        ("0177.0.0.1", "looks like an IPv4 address and is none"),
        ("[::g]", ""),  # who finds it depends on the version of Python
        (f"{'ü' * 70}.example", "has 'ü': a name has letters of a to z"),
        ("ü..example", "has 'ü'"),
        ("xn--a-ü.example", "has 'ü'"),
    ],
)
def test_a_host_that_cannot_be_one_is_refused(tmp_path: Path, host: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, site(url=f'"https://{host}:8443"'))
    assert f"line 4: url of site a has a host that {words}" in str(caught.value)
    assert str(caught.value).endswith("; expected like https://host:port")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("host", "dns"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
    ],
)
def test_a_host_of_other_letters_is_written_as_dns_has_it(tmp_path: Path, host: str, dns: str) -> None:
    """So that every part of a run and of a check asks for the same name."""
    (entry,) = read(tmp_path, site(url=f'"https://{host}:8443/x/"'))
    assert entry.url == f"https://{dns}:8443/x"


@pytest.mark.parametrize(
    "host", ["site.example", "Site.EXAMPLE.", f"{'x' * 63}.example", "a_b", "10.0.0.1", "[2001:DB8::1]"]
)
def test_other_hosts_stay_as_they_are_written(tmp_path: Path, host: str) -> None:
    (entry,) = read(tmp_path, site(url=f'"https://{host}:8443"'))
    assert entry.url == f"https://{host}:8443"


def test_an_address_with_a_zone_is_taken(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, site(url='"http://[fe80::1%eth0]:8001"'), insecure=True)
    assert entry.url == "http://[fe80::1%eth0]:8001"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://site.example", "https://site.example"),
        ("https://site.example", "https://SITE.example"),
        ("https://site.example", "HTTPS://site.example"),
        ("https://site.example", "https://site.example:443"),
        ("https://site.example", "https://site.example:"),
        ("https://site.example", "https://site.example."),
        ("https://site.example", "https://site.example//"),
        ("https://site.example:8443/x", "https://site.example:8443/x/"),
        ("https://site.example:8443/x", "https://site.example:8443/%78"),
        ("https://site.example:8443/x", "https://site.example:8443//y/../x"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://127.0.0.1", "http://127.0.0.1:80"),
        ("http://127.0.0.1:8001", "http://[::ffff:127.0.0.1]:8001"),
        ("http://[::1]:8001", "http://[0:0:0:0:0:0:0:1]:8001"),
        ("https://[2001:db8::a]", "https://[2001:DB8:0::A]:443"),
    ],
)
def test_one_url_is_not_of_two_operators(tmp_path: Path, one: str, other: str) -> None:
    """However it is spelled: who answers there would see the windows of both."""
    both = site(url=f'"{one}"') + site(name='"b"', url=f'"{other}"', operator='"beta"')
    with pytest.raises(InputError) as caught:
        read(tmp_path, both, insecure=True)
    assert str(caught.value).endswith(
        "sites.toml: sites a and b have one url, but the operators alpha and beta; who answers there sees "
        "the windows of both: give them one operator, or leave one out"
    )
    assert len(read(tmp_path, both.replace("beta", "alpha"), insecure=True)) == 2


@pytest.mark.parametrize(
    "other",
    [
        "https://site.example:8444", "https://site2.example:8443", "https://site.example:8443/y",
        "https://site.example:8443/X", "https://site.example",
    ],
)  # fmt: skip
def test_other_urls_may_be_of_other_operators(tmp_path: Path, other: str) -> None:
    one = site(url='"https://site.example:8443/x"')
    assert len(read(tmp_path, one + site(name='"b"', url=f'"{other}"', operator='"beta"'))) == 2
