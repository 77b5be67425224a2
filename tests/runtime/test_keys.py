"""`pedsam keys`: what it writes, what it keeps when it runs again, and what it refuses."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pedsam import main
from runtime.certificates import Authority
from runtime.keys import make_keys, parse_sites
from runtime.preview.access import load_identity
from runtime.sites import read_sites
from stages.errors import InputError
from tests.keys import now

SITES = ("a=https://203.0.113.7:8443", "b=https://gpu.example.org:8443", "c=https://[2001:db8::7]/")


def keys(out: Path, *options: str, sites: tuple[str, ...] = SITES) -> Result:
    line = ["keys", "--out", str(out), *options]
    return CliRunner().invoke(main, [*line, *(part for site in sites for part in ("--site", site))])


def assert_refused(result: Result, words: str) -> None:
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # not a traceback
    (line,) = result.output.splitlines()
    assert line.startswith("Error: ")
    assert words in line


@pytest.fixture
def out(tmp_path: Path) -> Path:
    result = keys(tmp_path / "keys", "--operator", "a=alpha corp")
    assert result.exit_code == 0, result.output
    return tmp_path / "keys"


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def certificates(out: Path, name: str) -> Iterator[x509.Certificate]:
    """Every certificate of a site: its authority's, the server's and the client's."""
    yield certificate(out / "edge" / name / "ca.pem")
    yield certificate(out / name / "server.pem")
    yield certificate(out / "edge" / name / "client.pem")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is written


def test_each_place_gets_its_files(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {"a", "b", "c", "edge", "sites.toml"}
    for name in "abc":
        site, edge = out / name, out / "edge" / name
        assert {path.name for path in site.iterdir()} == {
            "server.pem",
            "server.key",
            "client_ca.pem",
            "token",
        }
        assert {path.name for path in edge.iterdir()} == {
            "ca.pem",
            "ca.key",
            "client.pem",
            "client.key",
            "token",
        }
        assert (site / "token").read_bytes() == (edge / "token").read_bytes()
        assert (site / "client_ca.pem").read_bytes() == (edge / "ca.pem").read_bytes()


def test_only_the_owner_can_read_them(out: Path) -> None:
    for path in [out, *out.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_edge_reads_the_sites_it_wrote(out: Path) -> None:
    sites = read_sites(out / "sites.toml")
    assert [site.name for site in sites] == ["a", "b", "c"]
    assert [site.operator for site in sites] == ["alpha corp", "b", "c"]
    assert [site.url for site in sites] == [
        "https://203.0.113.7:8443",
        "https://gpu.example.org:8443",
        "https://[2001:db8::7]",
    ]
    for site in sites:
        assert site.ssl_context() is not None
        assert site.token is not None
        assert len(site.token) >= 43  # 32 random bytes


def test_certificates_are_for_their_one_use(out: Path) -> None:
    addresses = []
    for name in "abc":
        authority, server, client = certificates(out, name)
        assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        for each, usage in ((server, "serverAuth"), (client, "clientAuth")):
            each.verify_directly_issued_by(authority)
            assert not each.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
            found = each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            assert [oid._name for oid in found] == [usage]
            key = each.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert isinstance(key.curve, ec.SECP256R1)
        (address,) = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses.append((type(address), str(address.value)))
        pem = (out / name / "server.key").read_bytes()
        private = serialization.load_pem_private_key(pem, None)
        assert private.public_key() == server.public_key()
    assert addresses == [
        (x509.IPAddress, "203.0.113.7"),
        (x509.DNSName, "gpu.example.org"),
        (x509.IPAddress, "2001:db8::7"),
    ]


def test_sites_share_nothing_that_would_link_them(out: Path) -> None:
    seen: dict[object, str] = {}
    for name in "abc":
        own: set[object] = {(out / name / "token").read_text()}
        for each in certificates(out, name):
            spki = serialization.PublicFormat.SubjectPublicKeyInfo
            own |= {
                each.public_key().public_bytes(serialization.Encoding.DER, spki),
                each.serial_number,
                each.subject,
                each.issuer,
                each.not_valid_before_utc,
                each.not_valid_after_utc,
            }
        for thing in own:
            assert thing not in seen, f"{name} and {seen[thing]} share {thing}"
            seen[thing] = name


def test_dates_of_one_moment_do_not_show_it(tmp_path: Path) -> None:
    """Neither start, end nor length tell that certificates were made together."""
    sites = parse_sites([f"s{number}=https://s{number}.example" for number in range(8)], [])
    make_keys(sites, tmp_path, 365, now())
    found = [each for site in sites for each in certificates(tmp_path, site.name)]
    starts = [each.not_valid_before_utc for each in found]
    lengths = [each.not_valid_after_utc - each.not_valid_before_utc for each in found]
    assert len(set(starts)) == len(set(lengths)) == len(found)
    assert max(starts) - min(starts) > timedelta(days=3)


def test_the_terminal_says_until_when_and_what_goes_where(out: Path, tmp_path: Path) -> None:
    output = keys(tmp_path / "other", "--days", "30").output
    until = min(
        certificate(tmp_path / "other" / part).not_valid_after_utc
        for part in ("a/server.pem", "edge/a/client.pem")
    )
    assert timedelta(days=29) < until - now() < timedelta(days=34)
    (row,) = (line for line in output.splitlines() if "203.0.113.7:8443" in line and "│" in line)
    assert f"{until:%Y-%m-%d}" in row
    assert "new" in row
    assert f"  scp -r {tmp_path}/other/c USER@[2001:db8::7]:\n" in output
    assert f"pedsam run --sites {tmp_path}/other/sites.toml" in output


# Again


def test_renewing_keeps_authority_and_token_and_changes_certificates(out: Path) -> None:
    before, toml = contents(out), (out / "sites.toml").read_text()
    result = keys(out, sites=SITES[:2])
    assert result.exit_code == 0
    assert result.output.count("renewed") == 2
    assert "change that to" not in result.output  # whose a site is, a person says
    changed = {name for name, content in contents(out).items() if before[name] != content}
    parts = ("{}/server.pem", "{}/server.key", "edge/{}/client.pem", "edge/{}/client.key")
    assert changed == {part.format(name) for name in "ab" for part in parts}
    assert (out / "sites.toml").read_text() == toml
    for name in "ab":
        authority, server, client = certificates(out, name)
        server.verify_directly_issued_by(authority)
        client.verify_directly_issued_by(authority)


def test_tokens_change_when_asked(out: Path) -> None:
    before = (out / "a/token").read_text()
    assert keys(out, "--rotate-token", sites=SITES[:1]).exit_code == 0
    assert (out / "a/token").read_text() == (out / "edge/a/token").read_text() != before


def test_a_sites_own_folder_may_have_been_moved_away(out: Path) -> None:
    token = (out / "edge/a/token").read_text()
    (out / "a").rename(out.parent / "moved")
    assert keys(out).exit_code == 0
    assert (out / "a/token").read_text() == token


def test_a_sites_toml_that_was_changed_is_added_to_and_nothing_else(out: Path) -> None:
    mine = '# mine\n[[site]]\nname = "x"\noperator = "y"\nurl = "https://x.example"\n'
    (out / "sites.toml").write_text(mine)
    assert keys(out).exit_code == 0
    text = (out / "sites.toml").read_text()
    assert text.startswith(mine)
    assert [site.name for site in read_sites(out / "sites.toml")] == ["x", "a", "b", "c"]


def test_what_differs_in_sites_toml_is_said_and_left(out: Path) -> None:
    before = (out / "sites.toml").read_text()
    result = keys(out, sites=("a=https://new.example:1",))
    assert "it says url = 'https://203.0.113.7:8443', change that to 'https://new.example:1'" in result.output
    assert (out / "sites.toml").read_text() == before


# Refused


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["a=https://x.example", "a=https://y.example"], "--site names the site a twice"),
        (["a=http://x.example:8443"], "plain http has none"),
        (["a=https://x.example/v2"], "a site has no path"),
        (["a=https://x.example?q=1"], "a site has no path"),
        (["a=https://me@x.example"], "expected like https://host:port"),
        (["a=https://x.example:99999"], "expected like https://host:port"),
        (["a=https://x.example:0"], "expected like https://host:port"),
        (["a=https://*.example"], "expected like https://host:port"),
        (["a=https://höst.example"], "expected like https://host:port"),
        (["a=ftp://x.example"], "expected like https://host:port"),
        (['a=https://x.example"'], "expected like https://host:port"),
        (["a/b=https://x.example"], "site name 'a/b' cannot name a folder"),
        (["..=https://x.example"], "site name '..' cannot name a folder"),
        (["edge=https://x.example"], "site name 'edge' cannot name a folder"),
        (["https://x.example"], "--site is 'https://x.example', expected like a=https://"),
        (["a="], "--site is 'a=', expected like"),
    ],
)
def test_wrong_sites(tmp_path: Path, sites: list[str], words: str) -> None:
    assert_refused(keys(tmp_path / "keys", sites=tuple(sites)), words)
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        ("x=alpha", "--operator names the site x, for which there is no --site"),
        ('a="', "without quotes"),
        ("a", "--operator is 'a', expected like a=alpha"),
    ],
)
def test_wrong_operators(tmp_path: Path, operator: str, words: str) -> None:
    assert_refused(keys(tmp_path / "keys", "--operator", operator), words)


@pytest.mark.parametrize("place", ["b/notes.txt", "edge/b/notes.txt"])
def test_what_others_wrote_is_left_alone(out: Path, place: str) -> None:
    (out / place).write_text("mine")
    before = contents(out)
    assert_refused(keys(out), "holds notes.txt, which `pedsam keys` did not write")
    assert contents(out) == before  # of site a too


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    assert_refused(keys(tmp_path), "is a file where a folder is needed")


def test_an_authority_that_cannot_be_read(out: Path) -> None:
    (out / "edge/b/ca.key").unlink()
    before = contents(out)
    assert_refused(keys(out), "the authority of site b (ca.pem and ca.key in")
    (out / "edge/b/ca.key").write_bytes((out / "edge/a/ca.key").read_bytes())
    assert_refused(keys(out), "do not belong together")
    (out / "edge/b/ca.key").write_text("nonsense")
    assert_refused(keys(out), "cannot be read")
    (out / "edge/b/ca.key").unlink()
    assert contents(out) == before


def test_a_site_without_the_edges_part(out: Path) -> None:
    (out / "edge/b").rename(out.parent / "moved")
    assert_refused(keys(out), "which holds the authority of site b; put it back")


def test_certificates_never_outlive_their_authority(tmp_path: Path) -> None:
    sites = parse_sites(SITES[:1], [])
    make_keys(sites, tmp_path, 365, now() - timedelta(days=7000))
    with pytest.raises(InputError, match=r"the authority of site a ends on .*give fewer --days"):
        make_keys(sites, tmp_path, 3650, now())
    make_keys(sites, tmp_path, 30, now())


@pytest.mark.parametrize("text", ["[[site]\n", "site = []\n", "[site]\n", "version = 1\n"])
def test_a_sites_toml_that_cannot_be_added_to_is_left_alone(out: Path, text: str) -> None:
    (out / "sites.toml").write_text(text)
    result = keys(out)
    assert result.exit_code == 1
    assert "cannot be added to" in result.output.splitlines()[-1]
    assert (out / "sites.toml").read_text() == text


def test_an_out_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(keys(tmp_path / "file/keys"), "choose another --out")


def test_an_encrypted_authority_is_told(tmp_path: Path) -> None:
    made = Authority.new("a", now())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = made.key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"x"))
    with pytest.raises(ValueError, match="encrypted"):
        Authority.from_pem(made.to_pem().certificate, locked)


# For the preview


@pytest.mark.parametrize("host", ["192.0.2.7", "edge.local", "2001:db8::7"])
def test_the_preview_gets_keys_of_its_own(tmp_path: Path, host: str) -> None:
    out = tmp_path / "keys"
    made = keys(out, "--preview", host, sites=())
    assert made.exit_code == 0, made.output
    assert f"--preview-keys {out}/preview" in made.output
    assert load_identity(out / "preview").names == (host,)
    assert not (out / "sites.toml").exists()  # it is no site
    token = load_identity(out / "preview").token
    again = keys(out, "--preview", host, sites=SITES[:1])
    assert again.exit_code == 0, again.output
    assert [site.name for site in read_sites(out / "sites.toml")] == ["a"]
    assert load_identity(out / "preview").token == token  # an open page goes on


def test_what_the_preview_cannot_have_is_refused(tmp_path: Path) -> None:
    assert_refused(keys(tmp_path, "--preview", "no host", sites=()), "expected a name or an IP address")
    assert_refused(keys(tmp_path, sites=()), "give --site NAME=URL or --preview HOST")
    assert_refused(keys(tmp_path, sites=("preview=https://x",)), "'edge' or 'preview'")
