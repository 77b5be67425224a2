"""Addresses: no part of a password is shown, whatever it holds and wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.address import Address, names_address, readable, without_addresses

HOSTS = ("cam", "127.0.0.1", "127.0.0.1:554", "kamera-tür.de:80", "[fe80::1%eth0]:554", "")
# Wherever a person, or a camera's maker, puts a user and a password.
FORMS = (
    "{scheme}://{user}:{password}@{host}/main",
    "{scheme}://{password}@{host}",
    "{scheme}://{host}/user={user}&password={password}&channel=1",
    "{scheme}://{host}/video.cgi?user={user}&pwd={password}",
    "{scheme}://{host}/{password}/main#{password}",
    "{scheme}://{user}:{password}@{host}/{user}@{password}?a={password}",
    "{user}:{password}@{host}/main",
    "v4l2src ! {scheme}://{user}:{password}@{host}",
)
PASSWORDS = st.text(st.characters(min_codepoint=33), min_size=4).map(lambda text: f"q7{text}7q")


def shown(address: Address) -> str:
    return f"{address} {address!r} {address:>40} {[address]}" + "%s" % address  # noqa: UP031


@given(
    form=st.sampled_from(FORMS),
    scheme=st.sampled_from(["rtsp", "HTTP", "rtmp", "x-new", "concat"]),
    host=st.sampled_from(HOSTS),
    password=PASSWORDS,
)
def test_no_part_of_a_password_is_shown(form: str, scheme: str, host: str, password: str) -> None:
    address = Address(form.format(scheme=scheme, user="q7admin7q", password=password, host=host))
    assert "q7" not in shown(address)
    assert "7q" not in shown(address)
    assert address.secret.count(password) == form.count("{password}")


@given(
    st.lists(st.sampled_from(["q7", "7q", "@", "/", ":", "?", "#", "\\", "&", "[", "]", "%", "5", ".", " "]))
)
def test_no_part_of_a_user_part_is_shown(parts: list[str]) -> None:
    address = Address(f"rtsp://q7{''.join(parts)}@127.0.0.1:9/x")
    assert "q7" not in shown(address)
    assert "7q" not in shown(address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://cam:554", "rtsp://cam:554"),
        ("RTSP://admin:pw@cam/main", "rtsp://cam/…"),
        ("rtsp://admin:Se/cr3t@127.0.0.1:9/x", "rtsp://127.0.0.1:9/…"),
        ("rtsp://admin:Se@cr3t@127.0.0.1:9/x", "rtsp://127.0.0.1:9/…"),
        ("rtsp://admin:Se#cr3t@[::1]:9/x", "rtsp://[::1]:9/…"),
        ("http://127.0.0.1:9/cgi?mail=a@b", "http://127.0.0.1:9/…"),
        ("http://cam/cgi?mail=a@b", "http://…"),  # or the user "cam" with a password that begins with "cgi"
        ("rtsp://admin:12/34@cam/x", "rtsp://…"),
        ("rtsp:///x", "rtsp://…"),
        ("csi://0", "csi://0"),
        ("admin:pw@cam", "…"),
        ("", "…"),
    ],
)
def test_scheme_host_and_port_are_shown(text: str, expected: str) -> None:
    assert str(Address(text)) == expected
    assert repr(Address(text)) == f"Address('{expected}')"
    assert Address(text).secret == text


SUFFIXES = {".jpg", ".png", ".mp4"}


@given(st.sampled_from(FORMS), st.sampled_from(["rtsp", "x-new"]), st.sampled_from(HOSTS), PASSWORDS)
def test_no_part_of_a_password_is_readable(form: str, scheme: str, host: str, password: str) -> None:
    text = form.format(scheme=scheme, user="q7admin7q", password=password, host=host)
    assert "q7" not in readable(text, SUFFIXES)
    assert "7q" not in readable(text, SUFFIXES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.2/cam?user=admin&pw=q7", "192.168.1.2/…"),
        ("192.168.1.2:554/x?auth=q7", "192.168.1.2:554/…"),
        ("192.168.1.2:7447/q7", "192.168.1.2:7447/…"),
        ("192.168.1.2:554", "192.168.1.2:554"),
        ("192.168.1.2 admin q7", "192.168.1.2/…"),
        ("cam.local/s?key=q7", "cam.local/s?…"),
        ("cam.local/user=q7_password=q7", "cam.local/user=…"),
        ("cam.local:554/q7", "cam.local:…"),
        ("rtsp//192.168.1.2/user=admin_psw=q7_x", "rtsp…"),
        ("rtsp:admin:q7/1.2.3.4", "rtsp…"),
        ("RTSPS:\\\\admin:q7\\x", "RTSPS…"),
        ("rtsp;//u:q7#h", "rtsp…"),
        ("rtps://q7/x", "rtps://…"),
        ("rtps://u:q7@cam/x", "rtps://cam/…"),
        ("wyze://q7", "wyze://…"),
        ("x-new://192.168.1.2/q7", "x-new://192.168.1.2/…"),
        ("admin:q7", "admin:…"),
        ("admin:q7@192.168.1.2", "…"),
        ("q7@cam", "…"),
        ("q7@cam/snap.jpg", "…"),
        ("//admin:q7@nas/clip.mp4", "…"),
        ("ffmpeg -i rtsp://u:q7@h/x", "…"),
        ("/cam?token=q7", "/cam?…"),
    ],
)
def test_what_may_be_an_address_is_shown_up_to_where_a_password_may_begin(text: str, expected: str) -> None:
    assert readable(text, SUFFIXES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "passport.jpg",
        "compass.mp4",
        "keys/token.png",
        "img@2x.png",
        "out/img@2x",
        "out/clip 12:30:05.MP4",
        "cam 192.168.1.2.mp4",
        "C:\\Users\\me\\a",
        "12345",
        "~nobody/a",
        "{folder}/a:b@c",
        "{folder}/rtsp:x",
    ],
)
def test_the_name_of_a_file_is_shown(tmp_path: Path, text: str) -> None:
    text = text.format(folder=tmp_path)
    assert readable(text, SUFFIXES) == text


def test_a_path_is_told_from_an_address() -> None:
    assert all(map(names_address, ("https://h/x", "u:p@h:/x", "u:p@h")))
    assert not any(map(names_address, ("a.mp4", "a@b", "a:b", "out/a:b@c", "C:\\a")))


def test_a_sentence_is_cut_where_an_address_begins() -> None:
    assert without_addresses("no (rtsp://a:p w@cam/x y)") == "no (rtsp://cam/…)"
    assert without_addresses("no option 'admin:pw@cam'") == "no option '…'"
    assert without_addresses("unexpected (cam/x?user=a&pw=b)") == "unexpected (…)"
    assert without_addresses("unexpected (1.2.3.4/user=a_psw=b)") == "unexpected (…)"
    assert without_addresses("No such option: --token=") == "No such option: --token="
    assert without_addresses("No such option: --sourse") == "No such option: --sourse"
