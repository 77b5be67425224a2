"""Power modes of a Jetson, by name: which its own configuration lists, which it is in, what came of a change.

The number of a mode means another mode on another board or JetPack, so a mode is looked up by name in the
board's own /etc/nvpmodel.conf. Texts of nvpmodel are from published output of real boards
(tests/jetson/samples/INDEX.tsv names the sources); nothing here was run on a board.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stages.errors import InputError, printable

NO_CAP = -1  # as the configuration writes it; nvpmodel itself shows the largest int64
_LARGEST = 2**63 - 1
_SAID = re.compile(r"^NVPM \w+: ?")
_TAG = re.compile(r"^<?\s*(POWER_MODEL|PM_CONFIG|PARAM)\b:?(.*)")
_ATTRIBUTE = re.compile(r"(\w+)=([^\s>]+)")
_NUMBER = re.compile(r"(?:^|\()(\d+)\)?$")  # 2, or MODE_15W(2)
_CURRENT = re.compile(r"NV Power Mode:\s*(\S.*?)\s*$")
_CPU = re.compile(r"CPU(_\w+)?$")

# Modes of boards that this is not, for the one who takes a name from another board's guide.
_ELSEWHERE = {
    "10W": "Orin NX",
    "20W": "Orin NX",
    "30W": "AGX Orin",
    "40W": "Orin NX with Super",
    "50W": "AGX Orin",
    "60W": "AGX Orin",
    "70W": "AGX Thor",
    "90W": "AGX Thor",
    "120W": "AGX Thor",
}
_SUPER_NAMES = ("25W", "40W", "MAXN", "MAXN_SUPER")  # of an Orin Nano or NX with Super, or meant for it
SUPER_NEEDS = (
    "Super needs JetPack flashed with the -super board configuration (jetson-orin-nano-devkit-super, for SDK "
    "Manager or l4t_initrd_flash.sh); linking /etc/nvpmodel.conf to the super file does not do it, "
    "nvpower.sh makes the link again at each boot"
)


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A power mode: its number on this board, its name as the board spells it, and its caps.

    A cap is NO_CAP where the hardware decides, None where the configuration says nothing. CPU clocks are in
    kHz, as Linux counts them. `cores` is how many are online.
    """

    number: int
    name: str
    gpu_hz: int | None = None
    cpu_khz: int | None = None
    emc_hz: int | None = None
    cores: int | None = None


@dataclass(frozen=True)
class Modes:
    """The modes a board lists, and the number it starts with the first time (which need not be listed)."""

    listed: tuple[Mode, ...]
    default: int | None = None

    @property
    def names(self) -> str:
        """For a sentence: 15W, 25W and 7W."""
        names = [mode.name for mode in self.listed]
        return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)

    def by_number(self, number: int) -> Mode | None:
        return next((mode for mode in self.listed if mode.number == number), None)

    def by_name(self, name: str) -> Mode | None:
        """MODE_15W and 15W are one mode, MAXN and MAXN_SUPER are two."""
        return next((mode for mode in self.listed if same_name(mode.name, name)), None)

    @property
    def has_super(self) -> bool:
        return any(normalised(mode.name).endswith("_SUPER") for mode in self.listed)


@dataclass
class _Draft:
    """A mode while its lines are read."""

    number: int
    name: str
    caps: dict[str, list[int]] = field(default_factory=dict)
    cores: list[int] = field(default_factory=list)

    def setting(self, owner: str, argument: str, value: int) -> None:
        if owner == "CPU_ONLINE":
            self.cores.append(value)
        elif argument == "MAX_FREQ":
            kind = "CPU" if _CPU.match(owner) else owner
            self.caps.setdefault(kind, []).append(NO_CAP if value < 0 or value >= _LARGEST else value)

    def cap(self, kind: str) -> int | None:
        values = self.caps.get(kind)
        return None if not values else NO_CAP if NO_CAP in values else max(values)

    def mode(self) -> Mode:
        return Mode(
            number=self.number,
            name=self.name,
            gpu_hz=self.cap("GPU"),
            cpu_khz=self.cap("CPU"),
            emc_hz=self.cap("EMC"),
            cores=sum(1 for value in self.cores if value) if self.cores else None,
        )


class Outcome(enum.Enum):
    """What came of asking nvpmodel for a mode."""

    CHANGED = "changed"
    NEEDS_REBOOT = "needs a reboot"  # asked, and not confirmed: the mode is as before
    REBOOTING = "rebooting"
    REFUSED = "refused"


def normalised(name: str) -> str:
    """One spelling for each name: MODE_15W -> 15W, `maxn super` -> MAXN_SUPER."""
    return re.sub(r"[\s_]+", "_", name.strip().upper()).removeprefix("MODE_")


def same_name(one: str, other: str) -> bool:
    return normalised(one) == normalised(other)


def parse_modes(text: str) -> Modes:
    """The modes of an nvpmodel.conf, or of what `nvpmodel -p --verbose` prints of it."""
    drafts: list[_Draft] = []
    open_mode, default = False, None
    for line in _lines(text):
        if tag := _TAG.match(line):
            attributes = dict(_ATTRIBUTE.findall(tag[2]))
            number = _number(attributes.get("ID", ""))
            open_mode = tag[1] == "POWER_MODEL" and number is not None
            if open_mode and number is not None:
                drafts.append(_Draft(number, printable(attributes.get("NAME", str(number)))))
            elif tag[1] == "PM_CONFIG":
                default = _number(attributes.get("DEFAULT", ""))
        elif open_mode:
            _take_setting(drafts[-1], line.split())
    return Modes(tuple(draft.mode() for draft in drafts), default)


def parse_query(text: str) -> tuple[str, int] | None:
    """Name and number of the mode that `nvpmodel -q` prints, among whatever it says besides."""
    name = None
    for line in text.splitlines():
        if found := _CURRENT.search(line):
            name = found[1]
        elif name is not None and line.strip().isdecimal():
            return printable(name), int(line)
    return None


def parse_status(text: str) -> int | None:
    """The number in /var/lib/nvpmodel/status, as in `pmode:0002 fmode:fan_mode_quiet`."""
    found = re.search(r"\bpmode:(\d+)", text)
    return int(found[1]) if found else None


def current_mode(modes: Modes, query: str, status: str) -> Mode | None:
    """The mode a board says it is in; /var/lib/nvpmodel/status where nvpmodel does not answer.

    A label that its configuration lacks (`nvpmodel -f OTHER` was used) is a mode without caps.
    """
    if said := parse_query(query):
        name, number = said
        return modes.by_name(name) or Mode(number=number, name=name)
    number_stored = parse_status(status)
    return None if number_stored is None else modes.by_number(number_stored)


def outcome(text: str, status: int) -> Outcome:
    """What `nvpmodel -m` did, from all that it printed and its exit status.

    The text decides before the status: an unanswered question ends with 234, and older versions end with 0
    after an error.
    """
    if re.search(r"\brebooting\b", text, re.IGNORECASE):
        return Outcome.REBOOTING
    if re.search(r"Reboot required|WANT TO REBOOT", text, re.IGNORECASE):
        return Outcome.NEEDS_REBOOT
    return Outcome.REFUSED if status or "NVPM ERROR" in text else Outcome.CHANGED


def find_mode(modes: Modes, name: str, compatible: Sequence[str] = ()) -> Mode:
    """The mode of this name, however it is spelt. Raises InputError that says what there is, and why.

    `compatible` is the device tree's list, which tells the kinds of boards apart.
    """
    if not modes.listed:
        raise InputError(
            f"the board lists no power modes, so {name} cannot be set: its /etc/nvpmodel.conf is missing or "
            "empty; leave --power out"
        )
    if mode := modes.by_name(name):
        return mode
    why = _why_missing(modes, normalised(name), compatible)
    raise InputError(f"this board has no power mode {name}; --power takes {modes.names}{why}")


def lacks_super(compatible: Sequence[str]) -> bool:
    """Whether this is an Orin Nano or NX without Super: -super in the device tree is the firmware's gate."""
    return any("p3767" in name for name in compatible) and not any(
        name.endswith("-super") for name in compatible
    )


def _why_missing(modes: Modes, name: str, compatible: Sequence[str]) -> str:
    if name.isdecimal() and modes.by_number(int(name)):
        return " (by name: numbers differ between boards)"
    if name == "MAXN" and modes.by_name("MAXN_SUPER"):
        return " (MAXN is called MAXN_SUPER here)"
    if name == "7W" and modes.has_super:
        return " (JetPack 7.2.1 has no 7W for Super)"
    if name in _SUPER_NAMES and lacks_super(compatible):
        return f". {SUPER_NEEDS}"
    if name in _ELSEWHERE:
        return f" ({name} is a mode of {_ELSEWHERE[name]})"
    return ""


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        bare = _SAID.sub("", line).strip()
        if bare and not bare.startswith("#"):
            yield bare


def _number(text: str) -> int | None:
    found = _NUMBER.search(text)
    return int(found[1]) if found else None


def _take_setting(draft: _Draft, words: list[str]) -> None:
    """One line `OWNER ARGUMENT VALUE`; values that are no numbers, as on and auto, are no caps."""
    if len(words) == 3 and re.fullmatch(r"-?\d+", words[2]):
        draft.setting(words[0], words[1], int(words[2]))
