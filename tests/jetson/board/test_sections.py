"""What programs on a board print, taken apart; each sample of a real board says what must come out."""

from __future__ import annotations

import json
import re

import pytest

from jetson.board import sections
from jetson.board.sections import Camera, Docker, Section
from tests.support.boards import sample

WORD = "0f3a9c"
MIB = 1024**2
GIB = 1024**3
JP45_INFO = Section(0, sample("docker-info-jetson-jp4.5.txt"))


def test_sections_are_split_at_the_word() -> None:
    found = sections.split(f"\n{WORD} first 0\na\nb\n\n{WORD} second 3\n", WORD)
    assert found == {"first": Section(0, "a\nb"), "second": Section(3, "")}


def test_section_that_is_not_there_is_like_a_missing_program() -> None:
    assert sections.split("", WORD)["docker"].status == 127


def test_content_cannot_begin_a_section_without_the_word() -> None:
    found = sections.split(f"\n{WORD} model 0\nother word\n model 0\nabcdef sudo 0\n\n{WORD} end 0\n", WORD)
    assert set(found) == {"model", "end"}


def test_control_characters_do_not_reach_a_terminal() -> None:
    found = sections.split(f"\n{WORD} model 0\nJet\x1b[31mson\tOrin\r\n", WORD)
    assert found["model"].text == "Jet?[31mson\tOrin?"


@pytest.mark.parametrize(
    ("section", "number"),
    [
        (Section(0, "4096"), 4096),
        (Section(1, "4096"), None),
        (Section(0, "x"), None),
        (Section(0, ""), None),
        (Section(0, "9" * 5000), None),
    ],
)
def test_number_of_a_program_that_ended_well(section: Section, number: int | None) -> None:
    assert section.number == number


# /proc of a board whose `free -h` and `tegrastats` are samples.
FREE = sample("free-df-orin-nano-jp7.2.1.txt")


def test_memory_in_bytes() -> None:
    kib = {"MemTotal": 7655424, "MemFree": 1677721, "MemAvailable": 4613734, "SwapTotal": 0}
    found = sections.memory("".join(f"{name}:  {size} kB\n" for name, size in kib.items()), "", 4096)
    shown = re.findall(r"Mem: +([\d.]+)Gi.* ([\d.]+)Gi", FREE)[0]
    assert (f"{found.total_bytes / GIB:.1f}", f"{found.available_bytes / GIB:.1f}") == shown  # type: ignore[operator]
    assert found.swap_bytes == 0
    assert found.largest_block_bytes is None


def test_memory_that_cannot_be_read_is_unknown() -> None:
    assert sections.memory("", "", 4096) == sections.Memory()


@pytest.mark.parametrize(
    ("zones", "page_bytes", "expected"),
    [
        (["3 0 0 0 0 0 0 0 0 0 1"], 4096, (4 * MIB, 1)),
        (["0 0 0 0 0 0 0 0 0 8 0"], 4096, (2 * MIB, 8)),
        (["1 0 0 0 0 0 0 0 0 0 2", "5 5 5 0 0 0 0 0 0 0 3"], 4096, (4 * MIB, 5)),
        (["9 1 0 0 0 0 0 0 0 0 0"], 65536, (131072, 1)),
        (["0 0 0 0 0 0 0 0 0 0 0"], 4096, (None, None)),
    ],
)
def test_largest_free_blocks(
    zones: list[str], page_bytes: int, expected: tuple[int | None, int | None]
) -> None:
    lines = [
        f"Node 0, zone {name:>8} {counts} \n" for name, counts in zip(("DMA", "Normal"), zones, strict=False)
    ]
    found = sections.memory("", "".join(lines), page_bytes)
    assert (found.largest_block_bytes, found.largest_blocks) == expected


def test_disk_of_a_board() -> None:
    found = sections.disk(FREE)
    assert found == sections.Disk("/", 116 * GIB, 43 * GIB)


@pytest.mark.parametrize(
    ("line", "free_bytes"),
    [
        ("/dev/nvme0n1p1 244506940 40000000 191965476 18% /mnt/docker images", 191965476 * 1024),
        ("overlay 244506940 244506940 0 100% /", 0),
        ("/dev/mmcblk0p1 1000 1100 -100 110% /", 0),
    ],
)
def test_disk_in_blocks_of_1024_bytes(line: str, free_bytes: int) -> None:
    found = sections.disk(f"Filesystem 1024-blocks Used Available Capacity Mounted on\n{line}\n")
    assert found is not None
    assert found.free_bytes == free_bytes


def test_disk_that_df_does_not_know() -> None:
    assert sections.disk("df: /var/lib/docker: Permission denied") is None


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("/dev/mmcblk0p1 / ext4 rw,relatime 0 0\n", True),
        ("/dev/mmcblk0p1 / ext4 ro,relatime 0 0\n", False),
        ("rootfs / rootfs rw 0 0\n/dev/nvme0n1p1 / ext4 ro,relatime,errors=remount-ro 0 0", False),
        ("/dev/nvme0n1p1 / ext4 rw,errors=remount-ro 0 0", True),
        ("/dev/sda1 /mnt ext4 ro 0 0", None),
        ("", None),
    ],
)
def test_root_that_can_be_written(mounts: str, expected: bool | None) -> None:
    assert sections.writable(mounts) is expected


def test_docker_info_of_a_jetson() -> None:
    assert sections.docker(JP45_INFO, Section()) == Docker(
        "ready",
        version="20.10.3",
        runtimes=("io.containerd.runc.v2", "io.containerd.runtime.v1.linux", "nvidia", "runc"),
        default_runtime="runc",
        storage_driver="overlay2",
        containerd_store=False,
        root="/var/lib/docker",
    )


def jp45_with(name: str) -> Docker:
    """The whole `docker info` with the lines of a sample that has some."""
    text = JP45_INFO.text
    for line in sample(name).splitlines():
        field = line.partition(":")[0]
        if f"\n{field}:" in text:
            text = re.sub(rf"^{field}:.*$", line, text, flags=re.MULTILINE)
        else:
            text = text.replace("  Backing Filesystem: extfs", line)
    return sections.docker(Section(0, text), Section())


def test_docker_info_of_jetpack_6() -> None:
    found = jp45_with("docker-info-runtime-lines-jp6.txt")
    assert found.runtimes == ("io.containerd.runc.v2", "nvidia", "runc")
    assert found.default_runtime == "nvidia"


def test_docker_whose_images_containerd_keeps() -> None:
    found = jp45_with("docker-info-runtime-lines-snapshotter.txt")
    assert (found.storage_driver, found.containerd_store) == ("overlayfs", True)
    assert found.runtimes == ("io.containerd.runc.v2", "runc")


def info_json(**more: object) -> Section:
    known = {
        "ServerVersion": "29.4.3",
        "Runtimes": {"nvidia": {"path": "nvidia-container-runtime"}, "runc": {}},
        "DefaultRuntime": "runc",
        "Driver": "overlay2",
        "DriverStatus": [["Backing Filesystem", "extfs"]],
        "DockerRootDir": "/mnt/docker",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
    }
    return Section(0, json.dumps({**known, **more}))


def test_docker_info_as_json_is_the_summary_of_a_board() -> None:
    version, root, driver, default = re.findall(
        r"Docker version ([\d.]+)|root dir: (\S+)|storage: (\S+)|default runtime: (\S+)",
        sample("docker-summary-agx-orin-r36.4.7.txt"),
    )
    found = sections.docker(info_json(ServerVersion=version[0], DockerRootDir=root[1]), Section())
    assert (found.version, found.root) == ("29.4.3", "/var/lib/docker")
    assert (found.storage_driver, found.default_runtime) == (driver[2], default[3])
    assert found.runtimes == ("nvidia", "runc")


def test_docker_info_as_json_with_containerd_and_without_root() -> None:
    status = [["driver-type", "io.containerd.snapshotter.v1"]]
    assert sections.docker(info_json(DriverStatus=status), Section()).containerd_store
    options = ["name=seccomp,profile=builtin", "name=rootless"]
    assert sections.docker(info_json(SecurityOptions=options), Section()).rootless
    assert not sections.docker(info_json(), Section()).rootless


def test_docker_warnings_before_the_json() -> None:
    text = f"WARNING: Error loading config file: permission denied\n{info_json().text}"
    assert sections.docker(Section(0, text), Section()).state == "ready"


@pytest.mark.parametrize(
    ("name", "line"),
    [("docker-version-orin-nano-jp7.2.1.txt", "29.8.0"), ("docker-summary-agx-orin-r36.4.7.txt", "29.4.3")],
)
def test_client_version_where_the_daemon_says_nothing(name: str, line: str) -> None:
    assert sections.docker(Section(1, ""), Section(0, sample(name))).version == line


# The line of docker-errors.txt that begins so, and what it means for `docker info`.
@pytest.mark.parametrize(
    ("begins", "state"),
    [
        ("permission denied", "denied"),
        ("docker: Cannot connect", "down"),
        ("docker: unknown server OS", "failed"),
        ("Error response from daemon: Get", "failed"),
        ("failed to register", "failed"),
    ],
)
@pytest.mark.parametrize("client", ["{}\n", "Client:\n Version:    28.2.2\n Debug Mode: false\n\nServer:\n"])
def test_docker_that_cannot_be_used(begins: str, state: str, client: str) -> None:
    line = next(line for line in sample("docker-errors.txt").splitlines() if line.startswith(begins))
    found = sections.docker(Section(1, f"WARNING: Error loading\n{client}{line}"), Section())
    assert (found.state, found.error) == (state, line)


def test_docker_that_says_more_than_what_hinders_it() -> None:
    said = (
        "DEPRECATED: the legacy builder",
        "ERROR: Cannot connect to the Docker daemon",
        "errors pretty printing info",
    )
    found = sections.docker(
        Section(1, "\n".join(("Client:", " Debug Mode: false", "Server:", *said))), Section()
    )
    assert (found.state, found.error) == ("down", "ERROR: Cannot connect to the Docker daemon")


def test_docker_that_hangs_and_docker_that_is_missing() -> None:
    hung = sections.docker(Section(124, ""), Section(0, "Docker version 29.8.0, build 88096ef"))
    assert (hung.state, hung.error, hung.version) == ("down", "it did not answer", "29.8.0")
    assert sections.docker(Section(), Section()).state == "missing"


@pytest.mark.parametrize(
    "text", ["{", "[" * 9000, '{"Runtimes": 3, "DriverStatus": 1}', "null", '{"Driver": []}']
)
def test_docker_json_of_another_shape(text: str) -> None:
    assert sections.docker(Section(0, text), Section()).state in ("down", "failed")


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("etc-docker-daemon-default.json", None),
        ("etc-docker-daemon-jetson-containers-style.json", "nvidia"),
        ("etc-docker-daemon-snapshotter-off.json", "nvidia"),
    ],
)
def test_daemon_json(name: str, default: str | None) -> None:
    found = sections.json_object(sample(name))
    assert list(found["runtimes"]) == ["nvidia"]
    assert found.get("default-runtime") == default


@pytest.mark.parametrize("text", ["", "// comment\n{}", "[]", "{", "[" * 100_000])
def test_daemon_json_that_is_none(text: str) -> None:
    assert sections.json_object(text) == {}


@pytest.mark.parametrize(
    ("name", "core", "toolkit"),
    [
        ("dpkg-nvidia-agx-orin-jp6.2.1.txt", "36.4.7-20250918154033", "1.16.2-1"),
        ("dpkg-nvidia-orin-nano-jp7.2.1.txt", "39.2.1-20260806224157", None),
    ],
)
def test_packages(name: str, core: str, toolkit: str | None) -> None:
    found = sections.packages(sample(name).splitlines())
    assert found["nvidia-l4t-core"] == core
    assert found.get("nvidia-container-toolkit") == toolkit


def test_package_that_is_not_installed() -> None:
    lines = [
        "dpkg-query: no packages found matching nvidia-l4t-core",
        "nvidia-container-toolkit 1.14.2-1 config-files",
        "docker.io 27.5.1 installed",
    ]
    assert sections.packages(lines) == {"docker.io": "27.5.1"}


@pytest.mark.parametrize(
    ("answer", "uid", "expected"),
    [
        (Section(1, sample("sudo-no-tty.txt")), 1000, "password"),
        (Section(0, ""), 1000, "passwordless"),
        (Section(), 1000, "missing"),
        (Section(), 0, "root"),
    ],
)
def test_sudo(answer: Section, uid: int, expected: str) -> None:
    assert sections.sudo(answer, uid) == expected


def test_clock_of_a_board_that_something_keeps_right() -> None:
    text = sample("timedatectl-synced.txt")
    assert sections.clock_synchronized(text) is True
    assert sections.clock_synchronized(text.replace("synchronized: yes", "synchronized: no")) is False
    assert sections.clock_synchronized("System has not been booted with systemd as init system") is None


def test_group_numbers() -> None:
    lines = ["video:x:44:jetson", "render:x:104:", "docker:x:many:", "short"]
    assert sections.group_ids(lines) == {"video": 44, "render": 104}


def test_device_files() -> None:
    paths = sample("dev-nodes-jetson-orin.txt").splitlines()
    found = sections.devices([f"{path}\t44" for path in paths] + ["/dev/video0\t"])
    assert found == {**dict.fromkeys(paths, 44), "/dev/video0": None}


def test_csi_camera_of_v4l2() -> None:
    found = sections.cameras([], sample("v4l2-ctl-list-devices-orin-nano-imx219.txt"))
    assert found == (Camera("/dev/video0", "vi-output, imx219 9-0010", "csi"),)


def test_no_camera_of_v4l2() -> None:
    assert sections.cameras([], sample("v4l2-ctl-list-devices-no-camera.txt")) == ()


def test_usb_camera_of_v4l2() -> None:
    text = "HD Pro Webcam C920 (usb-3610000.usb-2.2):\n\t/dev/video2\n\t/dev/video10\n\t/dev/media1\n"
    assert [camera.device for camera in sections.cameras([], text)] == ["/dev/video2", "/dev/video10"]
    assert sections.cameras([], text)[0] == Camera("/dev/video2", "HD Pro Webcam C920", "usb")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "/dev/video0\tvi-output, imx219 9-0010\t/sys/bus/platform/drivers/tegra-camrtc-capture-vi\t"
            "/sys/devices/platform/tegra-capture-vi",
            Camera("/dev/video0", "vi-output, imx219 9-0010", "csi"),
        ),
        (
            "/dev/video1\tUSB 2.0 Camera\t/sys/bus/usb/drivers/other\t/sys/devices/platform/usb1/1-2",
            Camera("/dev/video1", "USB 2.0 Camera", "usb"),
        ),
        ("/dev/video2\tLoopback\t\t/sys/devices/virtual", Camera("/dev/video2", "Loopback", "")),
        ("/dev/video3\tnothing else", Camera("/dev/video3", "nothing else", "")),
    ],
)
def test_camera_of_the_kernel(line: str, expected: Camera) -> None:
    assert sections.cameras([line], "") == (expected,)


def test_camera_that_both_know_is_one() -> None:
    line = "/dev/video0\tvi-output, imx219 9-0010\t\t/sys/devices/platform/tegra-capture-vi"
    assert len(sections.cameras([line], sample("v4l2-ctl-list-devices-orin-nano-imx219.txt"))) == 1
