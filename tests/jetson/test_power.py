"""Power modes: every sample of nvpmodel that there is, and names as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson.power import (
    NO_CAP,
    Mode,
    Modes,
    Outcome,
    current_mode,
    find_mode,
    normalised,
    outcome,
    parse_modes,
    parse_query,
    parse_status,
)
from stages.errors import InputError
from tests.support.boards import SAMPLES, sample
from tests.support.power_boards import AGX, NANO_PLAIN, NANO_SUPER, NX_SUPER


def test_a_configuration_has_its_caps_as_published() -> None:
    modes = parse_modes(sample("nvpmodel-orin-nano-super.reconstructed.conf"))
    rows = [line.split("\t") for line in sample("nvpmodel-caps-orin-nano-super.tsv").splitlines()[1:]]
    assert modes.default == 1
    assert [
        (mode.number, mode.name, mode.cores, mode.cpu_khz, mode.gpu_hz, mode.emc_hz) for mode in modes.listed
    ] == [
        (int(number), name, int(cores), int(cpu), int(gpu), int(emc))
        for number, name, cores, cpu, gpu, emc, *_ in rows
    ]
    assert modes.listed[2].gpu_hz == modes.listed[2].cpu_khz == NO_CAP
    assert modes.listed[1].emc_hz == 3199000000 > 2**31


@pytest.mark.parametrize(
    ("name", "names", "default"),
    [
        ("agx-orin", ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"], 2),
        ("agx-thor", ["MAXN", "120W", "90W", "70W"], 1),
        ("orin-nano-nonsuper", ["15W", "7W"], None),
        ("orin-nano-super-jp6.2", ["15W", "25W", "MAXN_SUPER", "7W"], 1),
        ("orin-nano-super-jp7.2.1", ["15W", "25W", "MAXN_SUPER"], 1),
    ],
)
def test_modes_of_every_board(name: str, names: list[str], default: int | None) -> None:
    modes = parse_modes(sample(f"nvpmodel-modes-{name}.txt"))
    assert [mode.name for mode in modes.listed] == names
    assert [mode.number for mode in modes.listed] == list(range(len(names)))
    assert modes.default == default
    assert modes.listed[0] == Mode(number=0, name=names[0])  # no caps were told


def test_what_nvpmodel_prints_of_its_configuration() -> None:
    modes = parse_modes(sample("nvpmodel-parse-emulated-jtop.txt"))
    assert modes == Modes((Mode(number=0, name="MAXN", cores=1),), default=2)


def test_attributes_in_any_order_gaps_and_a_default_that_is_missing() -> None:
    text = "<POWER_MODEL NAME=MODE_15W ID=2>\nGPU MAX_FREQ 5\n<PARAM TYPE=CLOCK NAME=EMC >\nGPU MAX_FREQ 9\n"
    text += "  < POWER_MODEL ID=7 NAME=MAXN >\nGPU MAX_FREQ 9223372036854775807\nCPU_A78_0 MIN_FREQ 8\nx\n"
    text += "< POWER_MODEL NAME=NONE >\nGPU MAX_FREQ 6\n< PM_CONFIG DEFAULT=4 >\nGPU MAX_FREQ 7\n"
    assert parse_modes(text) == Modes(
        (Mode(number=2, name="MODE_15W", gpu_hz=5), Mode(number=7, name="MAXN", gpu_hz=NO_CAP)), default=4
    )


def test_the_slowest_cores_do_not_hide_the_cap_of_the_fastest() -> None:
    text = "< POWER_MODEL ID=0 NAME=A >\nCPU_A78_0 MAX_FREQ 3\nCPU_A78_4 MAX_FREQ {}\nCPU_ONLINE CORE_0 1\n"
    assert parse_modes(text.format(9)).listed[0].cpu_khz == 9
    assert parse_modes(text.format(-1)).listed[0].cpu_khz == NO_CAP


@pytest.mark.parametrize("text", ["", "# nothing\n", "< POWER_MODEL >\n", "\0\xff<<<>>>\nGPU MAX_FREQ x"])
def test_no_configuration_has_no_modes(text: str) -> None:
    assert parse_modes(text).listed == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain", ("MAXN_SUPER", 2)),
        ("agx-maxn", ("MAXN", 0)),
        ("agx-30w", ("MODE_30W", 2)),
        ("verbose-orin-nano-super", ("MAXN_SUPER", 2)),
        ("verbose-orin-nx-40w-r36.5.0", ("40W", 4)),
    ],
)
def test_the_mode_that_nvpmodel_says(name: str, said: tuple[str, int]) -> None:
    assert parse_query(sample(f"nvpmodel-q-{name}.txt")) == said


def test_errors_around_it_do_not_hide_the_mode() -> None:
    errors = sample("nvpmodel-errors.txt")
    assert "13" in errors
    assert parse_query(errors) is None
    assert parse_query(errors + sample("nvpmodel-q-plain.txt") + errors) == ("MAXN_SUPER", 2)
    assert parse_query("NV Power Mode: 25W\nNVPM WARN: fan mode is not set to cool\n1\n") == ("25W", 1)
    assert parse_query("NV Power Mode: 25W\n") is None
    assert parse_query("NV Power Mode: \x1b[2J\n1") == ("?[2J", 1)


@pytest.mark.parametrize(("name", "number"), [("oneline", 2), ("twolines", 1)])
def test_the_mode_that_was_stored(name: str, number: int) -> None:
    assert parse_status(sample(f"var-lib-nvpmodel-status-{name}.txt")) == number
    assert parse_status("") is None


def test_the_current_mode_by_name_then_by_what_was_stored() -> None:
    modes = parse_modes(NANO_SUPER.conf)
    stored = sample("var-lib-nvpmodel-status-twolines.txt")
    maxn = modes.by_name("MAXN_SUPER")
    assert maxn is not None
    assert maxn.number == 2
    assert current_mode(modes, "NV Power Mode: MODE_15W\n0\n", stored) == modes.by_number(0)
    assert current_mode(modes, "NV Power Mode: MAXN_SUPER\n2\n", stored) == maxn
    assert current_mode(modes, "NV Power Mode: 30W\n2\n", "") == Mode(number=2, name="30W")  # of another file
    assert current_mode(modes, "NVPM ERROR: none\n", stored) == modes.by_number(1)
    assert current_mode(modes, "", "pmode:0009") is None
    assert current_mode(modes, "", "") is None


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("m-reboot-prompt-declined", 234, Outcome.NEEDS_REBOOT),
        ("m-reboot-prompt-declined", 0, Outcome.NEEDS_REBOOT),
        ("m-reboot-prompt-eof", 234, Outcome.NEEDS_REBOOT),
        ("m-reboot-prompt-accepted", 0, Outcome.REBOOTING),
        ("m-force-auto-reboot", 0, Outcome.REBOOTING),
        ("errors", 1, Outcome.REFUSED),
        ("errors", 0, Outcome.REFUSED),
    ],
)
def test_what_came_of_a_change(name: str, status: int, expected: Outcome) -> None:
    assert outcome(sample(f"nvpmodel-{name}.txt"), status) is expected


def test_a_quiet_change_is_one_and_a_quiet_failure_is_none() -> None:
    assert outcome("", 0) is Outcome.CHANGED
    assert outcome("NVPM WARN: fan mode is not set to cool\n", 0) is Outcome.CHANGED
    assert outcome("", 1) is Outcome.REFUSED


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("mode_15w", "15W"),
        (" 15w ", "15W"),
        ("MAXN SUPER", "MAXN_SUPER"),
        ("maxn", "MAXN"),
        ("MODE_MAXN", "MAXN"),
    ],
)
def test_one_spelling_for_each_name(name: str, same: str) -> None:
    assert normalised(name) == same


@pytest.mark.parametrize(
    ("conf", "name", "number"),
    [
        (NANO_SUPER.conf, "25w", 1),
        (NANO_SUPER.conf, "maxn super", 2),
        (AGX.conf, "15W", 1),
        (AGX.conf, "MODE_30W", 2),
        (AGX.conf, "maxn", 0),
        (NX_SUPER.conf, "40W", 4),
        (NANO_PLAIN.conf, "7W", 1),
    ],
)
def test_a_mode_is_found_by_its_name(conf: str, name: str, number: int) -> None:
    assert find_mode(parse_modes(conf), name).number == number


@pytest.mark.parametrize(
    ("conf", "compatible", "name", "reason"),
    [
        (
            NANO_PLAIN.conf,
            NANO_PLAIN.compatible,
            "MAXN_SUPER",
            "--power takes 15W and 7W. Super needs JetPack",
        ),
        (NANO_PLAIN.conf, NANO_PLAIN.compatible, "25W", "jetson-orin-nano-devkit-super"),
        (NANO_PLAIN.conf, NANO_PLAIN.compatible, "25W", "nvpower.sh"),
        (NANO_PLAIN.conf, NANO_PLAIN.compatible, "30W", "(30W is a mode of AGX Orin)"),
        (
            NANO_SUPER.conf,
            NANO_SUPER.compatible,
            "MAXN",
            "takes 15W, 25W, MAXN_SUPER and 7W (MAXN is called MAXN_SUPER",
        ),
        (NANO_SUPER.conf, NANO_SUPER.compatible, "2", "(by name: numbers differ between boards)"),
        (NANO_SUPER.conf, NANO_SUPER.compatible, "90w", "(90W is a mode of AGX Thor)"),
        (
            sample("nvpmodel-modes-orin-nano-super-jp7.2.1.txt"),
            (),
            "7W",
            "(JetPack 7.2.1 has no 7W for Super)",
        ),
        (
            AGX.conf,
            AGX.compatible,
            "10W",
            "takes MAXN, MODE_15W, MODE_30W and MODE_50W (10W is a mode of Orin NX)",
        ),
        ("", (), "15W", "/etc/nvpmodel.conf is missing or empty; leave --power out"),
    ],
)
def test_a_name_that_a_board_lacks_is_explained(
    conf: str, compatible: tuple[str, ...], name: str, reason: str
) -> None:
    with pytest.raises(InputError) as refused:
        find_mode(parse_modes(conf), name, compatible)
    assert reason in str(refused.value)


def test_a_name_that_nobody_knows_gets_the_list_alone() -> None:
    with pytest.raises(InputError) as refused:
        find_mode(parse_modes(NANO_PLAIN.conf), "fast", NANO_PLAIN.compatible)
    assert str(refused.value) == "this board has no power mode fast; --power takes 15W and 7W"


def test_every_sample_has_its_source() -> None:
    listed = {line.split("\t")[0] for line in sample("INDEX.tsv").splitlines()[1:]}
    assert {path.name for path in Path(SAMPLES).iterdir()} - {"INDEX.tsv"} == listed
