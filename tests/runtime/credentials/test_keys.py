"""`pedsam keys`: what it writes, what it keeps when it runs again, and what it refuses."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pedsam.command import main
from runtime.credentials.certificates import Authority
from runtime.credentials.keys import make_keys, parse_sites
from runtime.live.access import load_identity
from runtime.sites.config import read_sites
from stages.errors import InputError
from tests.support.disks import limited_to
from tests.support.keys import now
from tests.support.mounts import mounted_file, needs_mounts, python_with

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


def test_no_printed_form_holds_a_key() -> None:
    authority = Authority.new("a", now())
    pair = authority.server("127.0.0.1", 30, now())
    assert b"PRIVATE KEY" in pair.key
    assert "PRIVATE KEY" not in repr(pair) + repr(authority)


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


def test_a_sites_toml_of_keys_alone_is_added_to(out: Path) -> None:
    before = (out / "sites.toml").read_text()
    assert keys(out, sites=("d=https://d.example",)).exit_code == 0
    assert (out / "sites.toml").read_text().startswith(before)
    assert [site.name for site in read_sites(out / "sites.toml")] == ["a", "b", "c", "d"]


def test_a_sites_toml_in_which_a_person_wrote_is_left_and_what_it_lacks_is_told(out: Path) -> None:
    mine = '# mine\n[[site]]\nname = "x"\noperator = "y"\nurl = "https://x.example"\n'
    (out / "sites.toml").write_text(mine)
    result = keys(out)
    assert result.exit_code == 0
    assert (out / "sites.toml").read_text() == mine
    _, _, tables = result.output.partition("was changed by hand and is left as it is: add to it\n")
    (out / "sites.toml").write_text(mine + tables)
    assert [site.name for site in read_sites(out / "sites.toml")] == ["x", "a", "b", "c"]


def test_a_key_that_is_a_link_stays_one(out: Path, tmp_path: Path) -> None:
    token, elsewhere = out / "edge/a/client.key", tmp_path / "vault"
    elsewhere.mkdir()
    token.rename(elsewhere / "client.key")
    token.symlink_to(elsewhere / "client.key")
    before = token.read_bytes()
    assert keys(out).exit_code == 0
    assert token.is_symlink()
    assert token.read_bytes() != before
    assert list(elsewhere.iterdir()) == [elsewhere / "client.key"]


def test_what_a_renewal_that_was_killed_left_is_no_hindrance(out: Path) -> None:
    (out / "a/server.key.tmp").write_text("half")
    assert keys(out).exit_code == 0
    assert not (out / "a/server.key.tmp").exists()


@needs_mounts
def test_a_key_that_cannot_be_replaced_is_told_before_any_is(out: Path) -> None:
    before = contents(out)
    said = python_with(
        out,
        mounted_file("a/token").replace("a/token.host", "../token.host"),
        """
import sys
from pedsam.command import main
try:
    main(["keys", "--site", "a=https://203.0.113.7:8443", "--out", "."])
except SystemExit as exc:
    print(exc.code)
""",
    )
    assert said.split() == ["1"]
    assert contents(out) == before


def test_what_differs_in_sites_toml_is_said_and_left(out: Path) -> None:
    before = (out / "sites.toml").read_text()
    result = keys(out, sites=("a=https://new.example:1",))
    assert "it says url = https://203.0.113.7:8443, change that to 'https://new.example:1'" in result.output
    assert (out / "sites.toml").read_text() == before


def test_a_url_in_sites_toml_is_shown_without_what_may_be_secret(out: Path) -> None:
    text = (out / "sites.toml").read_text()
    (out / "sites.toml").write_text(text.replace("203.0.113.7:8443", "me:secret@203.0.113.7:8443/secret"))
    result = keys(out)
    assert "it says url = https://203.0.113.7:8443/…, change that to" in result.output
    assert "secret" not in result.output


def test_a_disk_that_fills_while_keys_are_renewed_leaves_the_old_ones(out: Path) -> None:
    for place in ("b", "edge/b"):
        (out / place / "token").write_text("x" * 5000)  # written last at the edge, and larger than the rest
    before = contents(out)
    with limited_to(4096):
        assert_refused(keys(out), "File too large")
    assert contents(out) == before


# Refused


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["a=https://x.example", "a=https://y.example"], "--site names the site a twice"),
        (
            ["a=http://x.example:8443/secret"],
            "is http://x.example:8443/…: keys are for TLS",
        ),
        (["a=https://x.example/secret"], "is https://x.example/…: a site has no path"),
        (["a=https://x.example?q=1"], "has a ? or #, which"),
        (["a=https://me@x.example"], "has a user before @"),
        (["a=https://x.example:99999"], "has a port that is no number from 1 to 65535"),
        (["a=https://x.example:0"], "expected like https://host:port"),
        (["a=https://*.example"], "has '*': a name has letters"),
        (["a=https://höst.example"], "has 'ö': a name has letters of a to z, digits, hyphens, underscores"),
        (["a=ftp://x.example"], "expected like https://host:port"),
        (['a=https://x.example"'], "has '\"': a name has letters"),
        (["a=https://x..example"], "has a part of 0 characters between its dots"),
        (["a=https://" + "x" * 64 + ".example"], "has a part of 64 characters"),
        (["a=https://" + "x.y" * 90], "has 270 characters, expected at most 253"),
        (["a=https://-x.example"], "has the part '-x', which begins or ends with a hyphen"),
        (["a=https://10.0.0.256"], "looks like an IPv4 address and is none"),
        (["a=https://[fe80::1%25eth0]:8443"], "has a zone after %"),
        (["a=https://[::1"], "has a host that cannot be read"),
        (["a=x.example:8443"], "does not begin with https://"),
        (["a/b=https://x.example"], "site name 'a/b' cannot name a folder"),
        (["..=https://x.example"], "site name '..' cannot name a folder"),
        (["edge=https://x.example"], "site name 'edge' cannot name a folder"),
        (["https://x.example"], "--site is 'https://x.example', expected like a=https://"),
        (["a="], "--site is 'a=', expected like"),
    ],
)
def test_wrong_sites(tmp_path: Path, sites: list[str], words: str) -> None:
    result = keys(tmp_path / "keys", sites=tuple(sites))
    assert_refused(result, words)
    assert "secret" not in result.output
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
    assert_refused(
        keys(out), "holds notes.txt, which `pedsam keys` did not write; move it away and try again"
    )
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


@pytest.mark.parametrize("text", ["[[site]\n", "[site]\n", "version = 1\n"])
def test_a_sites_toml_that_cannot_be_added_to_is_left_alone(out: Path, text: str) -> None:
    (out / "sites.toml").write_text(text)
    result = keys(out)
    assert result.exit_code == 1
    assert "cannot be added to" in result.output.splitlines()[-1]
    assert (out / "sites.toml").read_text() == text


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", "token~", "._token"])
def test_what_file_managers_leave_is_no_reason_for_another_authority(out: Path, name: str) -> None:
    for folder in (out, out / "a", out / "edge", out / "edge/a"):
        (folder / name).write_text("x")
    before = (out / "edge/a/ca.pem").read_bytes(), (out / "edge/a/token").read_bytes()
    result = keys(out)
    assert result.exit_code == 0, result.output
    assert ((out / "edge/a/ca.pem").read_bytes(), (out / "edge/a/token").read_bytes()) == before
    assert result.output.count("renewed") == 3


def remove(out: Path, *names: str) -> None:
    for name in names:
        (out / name).unlink()


def replace_by_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def leave_only(out: Path, name: str) -> None:
    """Nothing of site a but one file beside its authority's place."""
    shutil.rmtree(out / "a")
    replace_by_folder(out / "edge/a")
    (out / "edge/a" / name).touch()


def replace_by_link(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to("gone")


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: remove(out, "edge/a/ca.pem"), "the authority of site a"),
        (lambda out: remove(out, "edge/a/ca.key"), "the authority of site a"),
        (lambda out: remove(out, "edge/a/ca.pem", "edge/a/ca.key"), "the authority of site a"),
        (lambda out: leave_only(out, "ca.key"), "the authority of site a"),
        (lambda out: leave_only(out, ".DS_Store"), "the authority of site a"),
        (lambda out: remove(out, "edge/a/token"), "token of site a"),
        (lambda out: shutil.rmtree(out / "edge/a"), "is there but not"),
        (lambda out: shutil.rmtree(out / "edge"), "is there but not"),
        (lambda out: replace_by_folder(out / "edge"), "is there but not"),
        (lambda out: (out / "edge/a").rename(out / "edge/mine"), "is there but not"),
        (lambda out: replace_by_folder(out / "edge/a"), "the authority of site a"),
        (lambda out: replace_by_link(out / "edge/a"), "cannot be read"),
        (lambda out: shutil.copy(out / "edge/b/ca.key", out / "edge/a/ca.key"), "belong together"),
        (lambda out: replace_by_file(out / "a"), "is a file where a folder is needed"),
    ],
)
def test_half_of_what_a_site_has_makes_no_new_authority(
    out: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(out)
    before = contents(out / "b")
    assert_refused(keys(out), words)
    assert contents(out / "b") == before


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
    assert_refused(keys(tmp_path, "--preview", "no host", sites=()), "host 'no host' has ' '")
    for host in ("[::1", "::1]"):
        assert_refused(keys(tmp_path, "--preview", host, sites=()), "looks like an IPv6 address and is none")
    assert_refused(keys(tmp_path, "--preview", "https://x", sites=()), "an IP address without https://")
    assert_refused(keys(tmp_path, sites=()), "give --site NAME=URL or --preview HOST")
    assert_refused(keys(tmp_path, sites=("preview=https://x",)), "'edge' or 'preview'")
