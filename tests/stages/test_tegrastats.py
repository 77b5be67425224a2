"""tegrastats: every sample of a real board against values written out by hand, and what is damaged."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.errors import InputError
from stages.tegrastats import Rail, Tegrastats, Usage, parse_tegrastats
from tests.support.samples import SAMPLES, index, lines_of

FILES = sorted(path.name for path in SAMPLES.glob("tegrastats-*.txt"))
IDLE = Usage(0, None)


def at(mhz: int, *percents: int) -> tuple[Usage, ...]:
    """Cores, or others, with one clock and these loads."""
    return tuple(Usage(percent, mhz) for percent in percents)


def zones(text: str) -> dict[str, float]:
    """ "cpu 44.5 gpu 45" as degrees by zone."""
    words = text.split()
    return {name: float(degrees) for name, degrees in zip(words[::2], words[1::2], strict=True)}


def rails(**mw: int | tuple[int, ...]) -> dict[str, Rail]:
    """Milliwatts by rail: one value that is the average too, or each of them."""
    return {name: Rail(*(each if isinstance(each, tuple) else (each, each))) for name, each in mw.items()}


def off(names: str) -> dict[str, Usage | None]:
    return dict.fromkeys(names.split())


NANO_OFF = off("NVDEC NVJPG NVJPG1 VIC OFA")
NANO_OFF_7 = off("NVDEC0 NVJPG0 NVJPG1 VIC OFA")
AGX_OFF_7 = off("NVENC0 NVDEC0 NVJPG0 NVJPG1 VIC OFA NVDLA0 NVDLA1 PVA0")

# File -> its readings and, of the last one, watts of the whole board in mW and the warmest zone.
EXPECTED: dict[str, tuple[list[Tegrastats], int | None, str]] = {
    "tegrastats-agx-orin-jp5-2025.txt": (
        [
            Tegrastats(
                time=datetime(2025, 4, 11, 10, 36, 27),
                ram_used_mb=4321,
                ram_total_mb=62801,
                free_blocks=1759,
                free_block_mb=4,
                swap_used_mb=19,
                swap_total_mb=31400,
                cores=at(729, *[0] * 12),
                gpu=Usage(0, 0),
                emc=Usage(0, 2133),
                temperatures_c=zones(
                    "cpu 44.562 tboard 32 soc2 40.093 tdiode 33 soc0 41.093 tj 44.343 soc1 41.25"
                ),
                rails=rails(VDD_GPU_SOC=2340, VDD_CPU_CV=390, VIN_SYS_5V0=4025, VDDQ_VDD2_1V8AO=301),
                engines={"VIC": Usage(None, 729)},
            )
        ],
        2340 + 390 + 4025,
        "cpu",
    ),
    "tegrastats-agx-orin-jp5.1-2023.txt": (
        [
            Tegrastats(
                time=datetime(2023, 4, 24, 0, 1, 24),
                ram_used_mb=1282,
                ram_total_mb=62795,
                free_blocks=15152,
                free_block_mb=4,
                swap_used_mb=0,
                swap_total_mb=31398,
                cores=at(729, *[0] * 12),
                gpu=Usage(0, 0),
                emc=Usage(0, 2133),
                temperatures_c=zones(
                    "cpu 42.593 tboard 32 soc2 39.343 tdiode 33.25 soc0 39.375 tj 42.593 soc1 40.468"
                ),
                rails=rails(VDD_GPU_SOC=2399, VDD_CPU_CV=400, VIN_SYS_5V0=4032, VDDQ_VDD2_1V8AO=301),
                engines={"VIC": Usage(None, 729)},
            )
        ],
        2399 + 400 + 4032,
        "cpu",
    ),
    "tegrastats-agx-orin-jp6-negative-rail.txt": (
        [
            Tegrastats(
                time=datetime(2024, 3, 17, 18, 54, 10),
                ram_used_mb=10239,
                ram_total_mb=62841,
                free_blocks=442,
                free_block_mb=4,
                swap_used_mb=1,
                swap_total_mb=31421,
                cores=(*at(1728, 0, 0, 0, 0), *at(1420, 0, 0, 0, 0), None, None, None, None),
                gpu=IDLE,
                temperatures_c=zones(
                    "cpu 37.5 tboard 27 soc2 34.562 tdiode 27.5 soc0 34.531 tj 37.5 soc1 33.656"
                ),
                rails=rails(VDD_GPU_SOC=1592, VDD_CPU_CV=-398, VIN_SYS_5V0=2624, VDDQ_VDD2_1V8AO=403),
            )
        ],
        1592 - 398 + 2624,
        "cpu",
    ),
    "tegrastats-agx-orin-jp6.2.1-root-r36.4.4.txt": (
        [
            Tegrastats(
                time=datetime(2026, 5, 9, 18, 42, 6),
                ram_used_mb=18207,
                ram_total_mb=62841,
                free_blocks=466,
                free_block_mb=4,
                swap_used_mb=86,
                swap_total_mb=31420,
                cores=(
                    Usage(14, 2188),
                    Usage(5, 2112),
                    Usage(8, 2035),
                    Usage(14, 2201),
                    *at(1267, 46, 47, 2, 10),
                    *at(1036, 4, 5, 6, 10),
                ),
                gpu=Usage(0, 0),
                emc=Usage(3, 2133),
                temperatures_c=zones("cpu 52.562 soc2 48.437 soc0 49.093 tj 52.562 soc1 49.656"),
                rails=rails(VDD_GPU_SOC=2412, VDD_CPU_CV=1607, VIN_SYS_5V0=4707),
                engines=off("NVDEC NVJPG NVJPG1 OFA NVDLA0 NVDLA1 PVA0")
                | {"NVENC": Usage(79, 166), "VIC": Usage(36, 115)},
            )
        ],
        2412 + 1607 + 4707,
        "cpu",
    ),
    "tegrastats-agx-orin-jp6.2.1-user-r36.4.7.txt": (
        [
            Tegrastats(
                time=datetime(2026, 10, 5, 21, 3, 35),
                ram_used_mb=5137,
                ram_total_mb=62841,
                free_blocks=2,
                free_block_mb=4,
                swap_used_mb=0,
                swap_total_mb=31420,
                cores=at(729, 1, 25, 1, 1, 2, 1, 0, 0, 2, 14, 1, 0),
                gpu=IDLE,
                temperatures_c=zones("cpu 52.875 soc2 48.656 soc0 49.062 tj 52.875 soc1 49.031"),
                rails=rails(VDD_GPU_SOC=3178, VDD_CPU_CV=794, VIN_SYS_5V0=4543),
            )
        ],
        3178 + 794 + 4543,
        "cpu",
    ),
    "tegrastats-agx-orin-jp7.2.txt": (
        [
            Tegrastats(
                time=datetime(2026, 7, 25, 9, 8, 28),
                ram_used_mb=20642,
                ram_total_mb=62817,
                free_blocks=1,
                free_block_mb=2,
                cores=at(2201, 23, 10, 4, 14, 30, 18, 10, 10, 33, 7, 5, 27),
                gpu=Usage(12, 1300),
                emc=Usage(3, 3199),
                temperatures_c=zones("cpu 52.968 soc2 48.406 soc0 49.531 gpu 47.625"),
                rails=rails(
                    VDD_GPU_SOC=(5139, 5139, 5139),
                    VDD_CPU_CV=(3268, 3268, 3268),
                    VIN_SYS_5V0=(5500, 5500, 5500),
                ),
                engines=AGX_OFF_7,
            )
        ],
        5139 + 3268 + 5500,
        "cpu",
    ),
    "tegrastats-agx-thor-r38.4.txt": (
        [
            Tegrastats(
                time=datetime(2026, 4, 21, 15, 50, 52),
                ram_used_mb=105265,
                ram_total_mb=125772,
                free_blocks=34,
                free_block_mb=4,
                cores=at(972, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0),
                gpu=Usage(None, 314),
                emc=Usage(0, 2750),
                temperatures_c=zones("cpu 37.343 tj 38.875 soc012 37.468 gpu 38.875 soc345 37.406"),
                rails=rails(VDD_GPU=1962, VDD_CPU_SOC_MSS=5887, VIN_SYS_5V0=5635, VIN=19780),
                engines=dict.fromkeys(off("NVENC0 NVENC1 NVDEC0 NVDEC1 NVJPG0"), Usage(None, 314))
                | {"VIC": None, "OFA": Usage(None, 315), "PVA0": None},
            )
        ],
        19780,
        "tj",
    ),
    "tegrastats-orin-nano-4gb-root.txt": (
        [
            Tegrastats(
                time=datetime(2026, 9, 12, 2, 14, 33),
                ram_used_mb=1484,
                ram_total_mb=3602,
                free_blocks=21,
                free_block_mb=4,
                swap_used_mb=436,
                swap_total_mb=14089,
                cores=at(729, 3, 2, 1, 0, 1, 1),
                gpu=Usage(0, 305),
                emc=Usage(0, 2133),
                temperatures_c=zones("cpu 56.281 soc2 55.843 soc0 54.093 gpu 55.843 tj 56.281 soc1 56.187"),
                rails=rails(VDD_IN=4428, VDD_CPU_GPU_CV=562),
                engines=NANO_OFF,
            )
        ],
        4428,
        "cpu",
    ),
    "tegrastats-orin-nano-jp6-idle-root.txt": (
        [
            Tegrastats(
                time=datetime(2025, 9, 21, 15, 38, 17),
                ram_used_mb=3645,
                ram_total_mb=7620,
                free_blocks=63,
                free_block_mb=4,
                swap_used_mb=236,
                swap_total_mb=3810,
                cores=at(729, 1, 1, 4, 1, 0, 0),
                gpu=Usage(0, 305),
                emc=Usage(0, 204),
                temperatures_c=zones("cpu 44.125 soc2 43.375 soc0 42.125 gpu 44.531 tj 44.531 soc1 43.156"),
                rails=rails(VDD_IN=2957, VDD_CPU_GPU_CV=486, VDD_SOC=1012),
                engines=NANO_OFF,
            )
        ],
        2957,
        "gpu",
    ),
    "tegrastats-orin-nano-jp6.0-loaded-root.txt": (
        [
            Tegrastats(
                time=datetime(2024, 11, 15, 8, 38, 9),
                ram_used_mb=6185,
                ram_total_mb=7620,
                free_blocks=8,
                free_block_mb=2,
                swap_used_mb=851,
                swap_total_mb=3810,
                cores=at(729, 15, 11, 14, 13, 11, 8),
                gpu=Usage(63, 621),
                emc=Usage(43, 2133),
                temperatures_c=zones("cpu 53.968 soc2 52.437 soc0 50.75 gpu 53.343 tj 53.968 soc1 51.656"),
                rails=rails(VDD_IN=12479, VDD_CPU_GPU_CV=4667, VDD_SOC=2817),
                engines=NANO_OFF,
            )
        ],
        12479,
        "cpu",
    ),
    "tegrastats-orin-nano-super-jp6-gr3d-at.txt": (
        [
            Tegrastats(
                time=datetime(2026, 9, 17, 2, 10, 16),
                ram_used_mb=1483,
                ram_total_mb=7620,
                free_blocks=105,
                free_block_mb=4,
                swap_used_mb=253,
                swap_total_mb=12002,
                cores=at(729, 0, 0, 0, 0, 0, 0),
                gpu=Usage(62, 612),
                temperatures_c=zones("cpu 47.75 soc2 46.718 soc0 47.25 gpu 50 tj 50 soc1 48.093"),
                rails=rails(VDD_IN=4541, VDD_CPU_GPU_CV=521, VDD_SOC=(1446, 1473)),
            )
        ],
        4541,
        "gpu",
    ),
    "tegrastats-orin-nano-super-jp6-idle-user.txt": (
        [
            Tegrastats(
                time=datetime(2026, 9, 17, 2, 10, 3),
                ram_used_mb=1488,
                ram_total_mb=7620,
                free_blocks=105,
                free_block_mb=4,
                swap_used_mb=253,
                swap_total_mb=12002,
                cores=(*at(1036, 0, 0, 1, 1), *at(729, 0, 0)),
                gpu=IDLE,
                temperatures_c=zones("cpu 47.875 soc2 46.75 soc0 47.281 gpu 50.218 tj 50.218 soc1 48.281"),
                rails=rails(VDD_IN=4654, VDD_CPU_GPU_CV=560, VDD_SOC=1484),
            )
        ],
        4654,
        "gpu",
    ),
    "tegrastats-orin-nano-super-jp6-user.txt": (
        [
            Tegrastats(
                time=datetime(2026, 8, 10, 21, 39, 51),
                ram_used_mb=2513,
                ram_total_mb=7620,
                free_blocks=1,
                free_block_mb=4,
                swap_used_mb=25,
                swap_total_mb=3810,
                cores=at(729, 11, 7, 8, 4, 3, 14),
                gpu=IDLE,
                temperatures_c=zones("cpu 51.218 soc2 51.093 soc0 50.125 gpu 51.593 tj 51.718 soc1 50.343"),
                rails=rails(VDD_IN=(4744, 6179), VDD_CPU_GPU_CV=(1273, 2369), VDD_SOC=(1234, 1392)),
            )
        ],
        4744,
        "tj",
    ),
    "tegrastats-orin-nano-super-jp7.2.1.txt": (
        [
            Tegrastats(
                time=datetime(2026, 9, 19, 13, 33, 2),
                ram_used_mb=2850,
                ram_total_mb=7486,
                free_blocks=33,
                free_block_mb=4,
                cores=at(729, 2, 0, 0, 0, 1, 0),
                gpu=Usage(0, 305),
                emc=Usage(5, 665),
                temperatures_c=zones("cpu 45.812 soc2 44.843 soc0 46.093 gpu 46.843 tj 46.843 soc1 46.281"),
                rails=rails(
                    VDD_IN=(3582, 3582, 3582), VDD_CPU_GPU_CV=(523, 523, 523), VDD_SOC=(1127, 1127, 1127)
                ),
                engines=NANO_OFF_7,
            ),
            Tegrastats(
                time=datetime(2026, 9, 19, 13, 33, 3),
                ram_used_mb=2845,
                ram_total_mb=7486,
                free_blocks=33,
                free_block_mb=4,
                cores=at(729, 1, 0, 0, 0, 0, 0),
                gpu=Usage(0, 305),
                emc=Usage(3, 665),
                temperatures_c=zones("cpu 45.375 soc2 44.687 soc0 46.25 gpu 46.562 tj 46.562 soc1 46.281"),
                rails=rails(
                    VDD_IN=(3462, 3522, 3582), VDD_CPU_GPU_CV=(442, 483, 523), VDD_SOC=(1127, 1127, 1127)
                ),
                engines=NANO_OFF_7,
            ),
        ],
        3462,
        "gpu",
    ),
    "tegrastats-orin-nx16-jp6-cores-off.partial.txt": (
        [
            Tegrastats(
                time=datetime(2026, 2, 24, 11, 29, 16),
                ram_used_mb=796,
                ram_total_mb=15656,
                free_blocks=7,
                free_block_mb=4,
                swap_used_mb=0,
                swap_total_mb=7828,
                cores=(*at(1344, 2, 1, 1, 4), None, None, None, None),
                gpu=IDLE,
                temperatures_c=zones("cv0 44.718 cpu 47.406"),
            )
        ],
        None,
        "cpu",
    ),
    "tegrastats-orin-nx16-jp6-loaded.txt": (
        [
            Tegrastats(
                time=datetime(2026, 8, 21, 18, 23, 23),
                ram_used_mb=6567,
                ram_total_mb=15656,
                free_blocks=54,
                free_block_mb=4,
                swap_used_mb=3109,
                swap_total_mb=7828,
                cores=at(1984, 31, 54, 50, 64, 54, 55, 55, 100),
                gpu=Usage(7, None),
                temperatures_c=zones(
                    "cv0 57.281 cpu 58.937 soc2 54.687 soc0 55.125 cv1 55.437 gpu 54.375 tj 58.937 "
                    "soc1 56.375 cv2 54.656"
                ),
                rails=rails(VDD_IN=(12673, 8213), VDD_CPU_GPU_CV=(7050, 3122), VDD_SOC=(2121, 1931)),
            )
        ],
        12673,
        "cpu",
    ),
    "tegrastats-orin-nx16-jp6.2-idle.txt": (
        [
            Tegrastats(
                time=datetime(2026, 7, 16, 13, 3, 45),
                ram_used_mb=1224,
                ram_total_mb=15656,
                free_blocks=8,
                free_block_mb=4,
                swap_used_mb=0,
                swap_total_mb=7828,
                cores=at(729, 1, 0, 0, 0, 0, 0, 0, 0),
                gpu=IDLE,
                temperatures_c=zones(
                    "cv0 41.156 cpu 45.843 soc2 39.593 soc0 42.562 cv1 42.156 gpu 43.406 tj 45.843 "
                    "soc1 40.25 cv2 38.593"
                ),
                rails=rails(VDD_IN=4304, VDD_CPU_GPU_CV=573, VDD_SOC=1218),
            )
        ],
        4304,
        "cpu",
    ),
}
LOADED = lines_of("tegrastats-orin-nano-jp6.0-loaded-root.txt")[0]


@pytest.mark.parametrize("name", FILES)
def test_every_sample_has_the_values_written_out_here(name: str) -> None:
    expected, power_mw, hottest = EXPECTED[name]
    found = [parse_tegrastats(line) for line in lines_of(name)]
    assert found == expected
    assert found[-1].power_mw == power_mw
    assert found[-1].hottest == (hottest, found[-1].temperatures_c[hottest])


def test_every_sample_has_a_source() -> None:
    assert len(FILES) == 17
    assert set(index()) == {path.name for path in SAMPLES.iterdir()} - {"INDEX.tsv"}


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        ("GR3D_FREQ 0%", Usage(0, None)),
        ("GR3D_FREQ 62%@612", Usage(62, 612)),
        ("GR3D_FREQ 0%@[305]", Usage(0, 305)),
        ("GR3D_FREQ 7%@[0,1300]", Usage(7, 1300)),
        ("GR3D_FREQ @[314,314,314]", Usage(None, 314)),
        ("GR3D_FREQ 5%@300 GR3D2_FREQ 70%@600", Usage(70, 600)),
        ("GR3D_FREQ 62%@6x", Usage(None, None)),
        ("", Usage(None, None)),
    ],
)
def test_every_form_of_the_gpus_load(text: str, usage: Usage) -> None:
    assert parse_tegrastats(f"RAM 1/2MB {text}").gpu == usage


def test_what_is_cut_off_is_left_out_and_the_rest_stays() -> None:
    """Wherever a line ends: nothing in it is another value than in the whole line."""
    whole = parse_tegrastats(LOADED)
    for end in range(len(LOADED)):
        try:
            part = parse_tegrastats(LOADED[:end])
        except InputError:
            assert end < LOADED.index(" (lfb")
            continue
        assert (part.ram_used_mb, part.ram_total_mb) == (6185, 7620)
        assert part.temperatures_c.items() <= whole.temperatures_c.items()
        assert all(part.rails[name].now_mw == whole.rails[name].now_mw for name in part.rails)
        assert part.cores in ((), whole.cores)
        assert part.gpu in (Usage(None, None), Usage(63, None), whole.gpu)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\n",
        "tegrastats: command not found",
        "RAM 12/7620",
        "RAM -1/7620MB",
        "RAM 12/7620GB",
        "RAM \u0661\u0662/7620MB",
        "RAM " + "9" * 10 + "/7620MB",
        LOADED + " " * 5000,
    ],
)
def test_what_is_no_reading_is_told_in_one_sentence(line: str) -> None:
    with pytest.raises(InputError, match=r"is no line of tegrastats: expected one with RAM") as caught:
        parse_tegrastats(line)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_a_date_that_is_none_costs_the_time_alone() -> None:
    reading = parse_tegrastats(LOADED.replace("11-15-2024", "13-45-2024"))
    assert reading.time is None
    assert reading.ram_used_mb == 6185


FRAGMENTS = st.sampled_from([*LOADED.split(" "), "off", "-256C", "@[", "]", "%@", "mW/", "NC", "0mW", "\x00"])


@given(st.one_of(st.text(max_size=300), st.lists(FRAGMENTS, max_size=60).map(" ".join)))
@example("RAM 1/2MB CPU [" + "1%@2," * 500 + "x")
@example("RAM 1/2MB GR3D_FREQ 1%@[" + "1," * 900)
@example("RAM 1/2MB a@1." + "1" * 900 + "C")
def test_nothing_but_a_reading_or_the_one_error_comes_of_any_text(line: str) -> None:
    try:
        reading = parse_tegrastats(line)
    except InputError:
        return
    assert reading.ram_total_mb >= 0
    assert all(degrees != -256 for degrees in reading.temperatures_c.values())
    assert "NC" not in reading.rails


@given(st.integers(0, len(LOADED) - 1), st.characters())
def test_one_changed_character_raises_nothing_else(place: int, character: str) -> None:
    try:
        parse_tegrastats(LOADED[:place] + character + LOADED[place + 1 :])
    except InputError:
        return
