"""Clocks: both forms of `jetson_clocks --show`, sysfs, and modes that are true or labels only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jetson.clocks import (
    Clock,
    Clocks,
    faults,
    out_of_reach,
    over_current_rise,
    parse_over_current,
    parse_show,
    parse_sysfs,
)
from jetson.power import Mode, Modes, parse_modes
from tests.support.boards import sample
from tests.support.power_boards import AGX, NANO_PLAIN, NANO_SUPER, NX_SUPER, PowerKind

KINDS = [NANO_SUPER, NANO_PLAIN, NX_SUPER, AGX]


def named(modes: Modes, name: str) -> Mode:
    mode = modes.by_name(name)
    assert mode is not None
    return mode


def true_clocks(mode: Mode, kind: PowerKind) -> Clocks:
    """The clocks of a board that is truly in this mode."""
    gpu = kind.gpu_top if mode.gpu_hz in (None, -1) else mode.gpu_hz
    cpu = kind.cpu_top if mode.cpu_khz in (None, -1) else mode.cpu_khz
    assert gpu is not None
    assert cpu is not None
    return Clocks(Clock(306000000, gpu, kind.gpu_top), Clock(729600, cpu, kind.cpu_top))


def test_show_of_jetpack_6() -> None:
    shown = parse_show(sample("jetson_clocks-show-orin-nano-super-jp6.txt"))
    assert shown.mode == "MAXN_SUPER"
    assert shown.clocks["cpu4"] == (729600, 1728000, 1728000)
    assert shown.clocks["GPU"] == (306000000, 1020000000, 306000000)
    assert shown.emc_hz == 2133000000
    assert set(shown.clocks) == {"cpu0", "cpu4", "GPU", "EMC"}


def test_show_of_jetpack_7() -> None:
    shown = parse_show(sample("jetson_clocks-show-orin-nano-super-jp7.2.1.txt"))
    assert shown.mode == "25W"
    assert shown.clocks["cpu5"] == (729600, 1344000, 1267200)
    assert shown.emc_hz == 665600000
    assert len(shown.clocks) == 8


def test_show_of_pinned_clocks() -> None:
    shown = parse_show(sample("jetson_clocks-show-agx-orin-locked-jp7.2.txt"))
    assert shown.mode == "MAXN"
    assert shown.clocks["GPU"] == (1300500000,) * 3
    assert shown.clocks["cpu11"] == (2201600,) * 3
    assert shown.clocks["DLA0_CORE"] == (0, 1600000000, 1600000000)


def test_show_of_nothing() -> None:
    shown = parse_show(sample("jetson_clocks-restore-no-store.txt"))
    assert shown.clocks == {}
    assert shown.mode is None
    assert shown.emc_hz is None


@pytest.mark.parametrize("folder", ["/sys/class/devfreq/17000000.gpu", "/sys/class/devfreq/17000000.ga10b"])
def test_clocks_from_sysfs(folder: str) -> None:
    text = f"{folder}/min_freq:306000000\n{folder}/max_freq:612000000\n"
    text += f"{folder}/available_frequencies:306000000 612000000 1020000000\n"
    for core, high in ((0, 1497600), (4, 960000)):
        cpu = f"/sys/devices/system/cpu/cpu{core}/cpufreq"
        text += (
            f"{cpu}/scaling_min_freq:729600\n{cpu}/scaling_max_freq:{high}\n{cpu}/cpuinfo_max_freq:1728000\n"
        )
    clocks = parse_sysfs(text)
    assert clocks == Clocks(Clock(306000000, 612000000, 1020000000), Clock(729600, 1497600, 1728000))
    assert not clocks.pinned
    assert not replace(clocks, gpu=Clock(5, 5)).pinned
    assert replace(clocks, gpu=Clock(5, 5), cpu=Clock(5, 5)).pinned
    assert str(clocks) == "GPU up to 612 MHz, CPU up to 1497.6 MHz"


def test_clocks_that_cannot_be_read() -> None:
    text = "/sys/class/devfreq/17000000.gpu/max_freq:cat: /sys: Permission denied\n"
    text += "/sys/class/devfreq/nvdla/max_freq:9\n"
    assert parse_sysfs(text) == Clocks()
    assert not Clocks().pinned
    assert str(Clocks()) == "clocks unknown"
    mode = Mode(number=0, name="15W", gpu_hz=1, cpu_khz=1)
    assert faults(mode, Modes((mode,)), Clocks()) == [
        "the GPU's maximum clock cannot be read",
        "the CPU's maximum clock cannot be read",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_mode_is_itself_and_no_other(kind: PowerKind) -> None:
    modes = parse_modes(kind.conf)
    for mode in modes.listed:
        clocks = true_clocks(mode, kind)
        assert faults(mode, modes, clocks) == []
        assert out_of_reach(mode, modes, clocks) == []
        for other in modes.listed:
            assert bool(faults(other, modes, clocks)) == (other != mode), (mode.name, other.name)


def test_a_forced_super_label_is_found() -> None:
    """As published: after forcing the super file, label MAXN_SUPER and the clocks of 15W."""
    rows = [line.split("\t") for line in sample("super-label-without-clocks.tsv").splitlines()[1:]]
    stock, forced = ({row[0]: row[column] for row in rows} for column in (1, 2))
    assert (stock["nvpmodel -q"], forced["nvpmodel -q"]) == (
        "NV Power Mode: 15W",
        "NV Power Mode: MAXN_SUPER",
    )
    gpu, cpu = int(forced["gpu max_freq"]), int(forced["cpu max khz"])
    modes = parse_modes(NANO_SUPER.conf)
    maxn = named(modes, "MAXN_SUPER")
    for clocks in (Clocks(Clock(0, gpu), Clock(0, cpu)), Clocks(Clock(0, gpu, gpu), Clock(0, cpu, cpu))):
        assert faults(maxn, modes, clocks) == ["the GPU runs at 624.75 MHz at most instead of 918"]
        assert faults(named(modes, "15W"), modes, clocks) == []  # 612 MHz becomes the step beside it
    assert out_of_reach(named(modes, "25W"), modes, clocks) == [
        "the GPU runs at 624.75 MHz at most instead of 918"
    ]
    alone = Modes((replace(maxn, gpu_hz=-1),))
    assert faults(maxn, alone, clocks) == ["the GPU runs at 624.75 MHz at most instead of 918"]


def test_a_mode_without_a_cap_reaches_what_the_hardware_does() -> None:
    modes = parse_modes(AGX.conf)
    clocks = Clocks(Clock(0, 828750000, 1300500000), Clock(0, 2201600, 2201600))
    assert faults(named(modes, "MAXN"), modes, clocks) == [
        "the GPU runs at 828.75 MHz at most instead of 1300.5"
    ]


def test_a_mode_whose_caps_are_not_told_is_not_judged() -> None:
    modes = parse_modes(sample("nvpmodel-modes-agx-orin.txt"))
    assert faults(modes.listed[1], modes, Clocks(Clock(0, 1), Clock(0, 1))) == []
    assert out_of_reach(modes.listed[1], modes, Clocks(Clock(0, 1, 1), None)) == []


def test_over_current_counters() -> None:
    counts = parse_over_current(sample("throttle-over-current.txt"))
    assert counts == {"oc1": 0, "oc2": 15, "oc3": 37}
    others = sample("throttle-over-current.txt").replace("soctherm_oc", "ina3221")
    assert parse_over_current(others) == {}


def test_over_current_is_told_by_what_it_rose() -> None:
    before = {"oc1": 0, "oc2": 15, "oc3": 37}
    assert over_current_rise(before, before) == ""
    assert over_current_rise({}, before) == ""
    assert over_current_rise(before, {"oc1": 0, "oc2": 16, "oc3": 49}) == (
        "the board throttled itself for over-current: 1 x average current, 12 x peak current; a "
        "lower --power or a stronger power supply avoids it"
    )
