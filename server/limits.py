"""What a site lets strangers take: connections, requests, memory and time, each counted when refused."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from server.batcher import NotNow
from stages.errors import InputError

MIB = 1 << 20
JSON_BYTES = MIB  # a tile of SAM as JSON numbers is 0.7 MiB, as nested lists 0.9 MiB
JSON_VALUES = 1 << 18  # numbers of a JSON answer: one window of vit_h is 250,880
RETRY_S = 1.0

Refused = Callable[[str], None]  # counts one refusal; its reason is a fixed word of this code


@dataclass(frozen=True)
class Limits:
    """Bounds of one site, the same for every client; times are in seconds, from the first byte or request.

    `connections` may be open, `per_address` of them from one address (IPv6: from one /64 network). A request
    head must be whole `header_s` after its connection was made or its first byte came; a connection without
    a request is kept for `idle_s`. A body must be whole within `read_s` and bring something every `stall_s`;
    an answer must be read within `write_s`. At most `requests` for inference are under way, and their bodies
    and answers together take at most `memory_mib`, half of it from one address.
    """

    connections: int = 256
    per_address: int = 64
    requests: int = 128
    memory_mib: int = 256
    header_s: float = 10.0
    idle_s: float = 75.0
    read_s: float = 30.0
    stall_s: float = 10.0
    write_s: float = 30.0

    @property
    def memory_share_bytes(self) -> int:
        """What the requests of one address may hold."""
        return self.memory_mib * MIB // 2

    def check_holds(self, largest_bytes: int) -> None:
        """Raises InputError when not even one request of the largest batch, with its answer, fits."""
        if largest_bytes > self.memory_share_bytes:
            needed = -(-2 * largest_bytes // MIB)
            raise InputError(
                f"the largest request of this model takes {largest_bytes} bytes with its answer, more than "
                f"half of --max-memory {self.memory_mib}; give at least {needed}"
            )


class Busy(NotNow):
    """The site is at a limit that other requests hold."""

    reason = "busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"this site has {what}; try again in {RETRY_S:.0f} s", RETRY_S)


@dataclass
class Quota:
    """So much of one thing in `total`, and at most `share` of it for one owner."""

    total: int
    share: int
    taken: int = 0
    _of: Counter[str] = field(default_factory=Counter)

    def is_full(self, amount: int = 1) -> bool:
        return self.taken + amount > self.total

    def is_full_for(self, owner: str, amount: int = 1) -> bool:
        return self._of[owner] + amount > self.share

    def take(self, owner: str, amount: int = 1) -> None:
        """Ask first whether it is full. A negative amount gives back."""
        self.taken += amount
        self._of[owner] += amount
        if not self._of[owner]:
            del self._of[owner]  # else every address ever seen would be kept


class Quotas:
    """What is taken of a site's limits: `connections`, `requests` for inference, `memory` in bytes."""

    def __init__(self, limits: Limits) -> None:
        self.connections = Quota(limits.connections, limits.per_address)
        self.requests = Quota(limits.requests, -(-limits.requests // 2))
        self.memory = Quota(limits.memory_mib * MIB, limits.memory_share_bytes)


class Hold:
    """What one request holds of a site's places and memory: nothing until it enters or after `release`."""

    def __init__(self, owner: str, requests: Quota, memory: Quota) -> None:
        self._owner = owner
        self._requests = requests
        self._memory = memory
        self._entered = False
        self._bytes = 0

    @property
    def n_bytes(self) -> int:
        return self._bytes

    def enter(self, n_bytes: int) -> None:
        """Take a place and memory. Raises Busy, and takes nothing, when there is none."""
        if self._requests.is_full() or self._requests.is_full_for(self._owner):
            raise Busy("as many requests under way as it takes")
        self.resize(n_bytes)
        self._requests.take(self._owner)
        self._entered = True

    def resize(self, n_bytes: int) -> None:
        """Hold so many bytes from now on. Raises Busy, and changes nothing, when there is no room."""
        more = n_bytes - self._bytes
        if more > 0 and (self._memory.is_full(more) or self._memory.is_full_for(self._owner, more)):
            raise Busy("as many bytes under way as it keeps")
        self._memory.take(self._owner, more)
        self._bytes = n_bytes

    def release(self) -> None:
        """Give everything back; calling it again does nothing."""
        self.resize(0)
        if self._entered:
            self._requests.take(self._owner, -1)
            self._entered = False


def owner_of(address: str) -> str:
    """Whom an address counts for: itself, or its /64 network, which one IPv6 subscriber has as a whole."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
