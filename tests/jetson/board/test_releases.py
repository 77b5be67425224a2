"""Which releases of L4T there are, and which of them the image serves."""

from __future__ import annotations

import pytest

from jetson.board.releases import BASES, L4T, base_for, is_newer, jetpack_of, name_of, parse_l4t, refusal
from tests.support.boards import SAMPLES, sample

# The JetPack of the release in each sample.
JETPACKS = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
    "39.2.1": "7.2.1",
}
SERVED = {"36.4.0", "36.4.3", "36.4.4", "36.4.7", "36.5.0", "36.5.2"}


def version(text: str) -> L4T:
    return L4T(*map(int, text.split(".")))


def test_there_is_an_expectation_for_every_sample() -> None:
    files = SAMPLES.glob("nv_tegra_release-r*.txt")
    assert {file.stem.partition("-r")[2] for file in files} == set(JETPACKS)


@pytest.mark.parametrize("name", JETPACKS)
def test_release_file(name: str) -> None:
    found = parse_l4t(sample(f"nv_tegra_release-r{name}.txt"))
    assert found == version(name)
    assert str(found) == name


@pytest.mark.parametrize(("name", "jetpack"), list(JETPACKS.items()))
def test_jetpack_of_release(name: str, jetpack: str) -> None:
    assert jetpack_of(version(name)) == jetpack
    assert name_of(version(name)) == f"JetPack {jetpack} (L4T {name})"


@pytest.mark.parametrize("name", JETPACKS)
def test_image_serves_jetpack_6_1_to_6_2_alone(name: str) -> None:
    assert (base_for(version(name)) is not None) == (name in SERVED)
    assert (refusal(version(name)) is None) == (name in SERVED)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("35.4.1", "JetPack 5.1.2 (L4T 35.4.1)"),
        ("36.3.0", "upgrade the board to JetPack 6.2"),
        ("36.2.0", "upgrade the board to JetPack 6.2"),
        ("38.4.0", "JetPack 7.1 (L4T 38.4.0)"),
        ("39.2.0", "prepared, but nobody has tried it"),
        ("39.2.1", "prepared, but nobody has tried it"),
        ("32.7.4", "L4T 32.7.4"),
        ("37.1.0", "L4T 37.1.0"),
        ("40.0.0", "L4T 40.0.0"),
    ],
)
def test_refusal_says_what_there_is_what_is_needed_and_what_to_do(name: str, expected: str) -> None:
    said = refusal(version(name)) or ""
    assert expected in said
    assert "the image is for JetPack 6.1 to 6.2.x (L4T 36.4 to 36.5)" in said
    assert "JetPack 6.2" in said.partition(";")[2]


@pytest.mark.parametrize("name", ["36.4.99", "36.5.9"])
def test_patch_that_no_list_has_is_served(name: str) -> None:
    base = base_for(version(name))
    assert base is not None
    assert not is_newer(version(name), base)


def test_minor_version_after_the_newest_is_served_and_known_to_be_newer() -> None:
    base = base_for(L4T(36, 6))
    assert base is not None
    assert is_newer(L4T(36, 6), base)
    assert jetpack_of(L4T(36, 6)) is None


def test_prepared_base_is_not_offered() -> None:
    prepared = [base for base in BASES if base.serves(L4T(39, 2, 1))]
    assert [base.offered for base in prepared] == [False]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpkg-nvidia-agx-orin-jp6.2.1.txt", L4T(36, 4, 7)),
        ("dpkg-nvidia-orin-nano-jp7.2.1.txt", L4T(39, 2, 1)),
    ],
)
def test_package_tells_the_release_where_the_file_does_not(name: str, expected: L4T) -> None:
    packages = dict(line.split() for line in sample(name).splitlines())
    assert parse_l4t("", packages["nvidia-l4t-core"]) == expected
    assert parse_l4t("# R36 (release), REVISION: 4.0, GCID: 1", packages["nvidia-l4t-core"]) == L4T(36, 4, 0)


@pytest.mark.parametrize(
    "text", ["", "# R36", "R36 (release), REVISION: 4.0", "# R36 (release), REVISION: x.y"]
)
def test_what_is_no_release_file(text: str) -> None:
    assert parse_l4t(text) is None
    assert parse_l4t(text, "unknown") is None
