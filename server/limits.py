"""Limits of a site: connections, requests, memory, timeouts. What goes beyond them is refused and counted."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from server.model.batcher import ServiceUnavailable
from stages.errors import InputError

MIB = 1 << 20
JSON_BYTES = MIB  # a tile of SAM as JSON numbers is 0.7 MiB, as nested lists 0.9 MiB
JSON_VALUES = 1 << 18  # numbers of a JSON answer: one window of vit_h is 250,880
RETRY_S = 1.0

Refused = Callable[[str], None]  # counts one refusal by its reason, a fixed word


@dataclass(frozen=True)
class Limits:
    """Limits of one site, the same for every client; times are in seconds.

    `connections` may be open, `per_address` of them from one address (IPv6: one /64 network). The head of a
    request must arrive within `header_s` of the connection or of its first byte; a connection without a
    request is kept for `idle_s`. A body must arrive within `read_s`, with at least a byte every `stall_s`; a
    response must be read within `write_s`. JSON must be read, or written, within `json_s`. At most `requests`
    for inference are in progress, and their bodies and responses together take at most `memory_mib`, half of
    it for one address.
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
    json_s: float = 20.0  # a hundred times what an honest tile takes, the start of the process included

    @property
    def memory_share_bytes(self) -> int:
        """What the requests of one address may hold."""
        return self.memory_mib * MIB // 2

    def check_room_for(self, largest_bytes: int) -> None:
        """Raises InputError when a request of the largest batch with its response does not fit."""
        if largest_bytes > self.memory_share_bytes:
            needed = -(-2 * largest_bytes // MIB)
            raise InputError(
                f"the largest request of this model takes {largest_bytes} bytes with its answer, more than "
                f"half of --max-memory {self.memory_mib}; give at least {needed}"
            )


class Busy(ServiceUnavailable):
    """Requests in progress use all of a limit."""

    reason = "busy"

    def __init__(self, what: str) -> None:
        super().__init__(f"this site has {what}; try again in {RETRY_S:.0f} s", RETRY_S)


@dataclass
class Quota:
    """A limit of `total` units of something, and of `share` units for one client."""

    total: int
    share: int
    taken: int = 0
    _by_client: Counter[str] = field(default_factory=Counter)

    def is_full(self, amount: int = 1) -> bool:
        return self.taken + amount > self.total

    def is_full_for(self, client: str, amount: int = 1) -> bool:
        return self._by_client[client] + amount > self.share

    def take(self, client: str, amount: int = 1) -> None:
        """Take units without checking: call `is_full` first."""
        self.taken += amount
        self._by_client[client] += amount

    def release(self, client: str, amount: int = 1) -> None:
        """Give units back."""
        self.taken -= amount
        self._by_client[client] -= amount
        if not self._by_client[client]:
            del self._by_client[client]  # else every address ever seen would stay in memory


class Quotas:
    """What is in use of a site's limits: `connections`, `requests` for inference, `memory` in bytes."""

    def __init__(self, limits: Limits) -> None:
        self.connections = Quota(limits.connections, limits.per_address)
        self.requests = Quota(limits.requests, -(-limits.requests // 2))
        self.memory = Quota(limits.memory_mib * MIB, limits.memory_share_bytes)


class Reservation:
    """The slot and the memory of one request: none before `enter` and after `release`."""

    def __init__(self, client: str, requests: Quota, memory: Quota) -> None:
        self._client = client
        self._requests = requests
        self._memory = memory
        self._entered = False
        self._bytes = 0

    @property
    def n_bytes(self) -> int:
        return self._bytes

    def enter(self, n_bytes: int) -> None:
        """Take a slot and memory. Raises Busy, and takes nothing, when there is none."""
        if self._requests.is_full() or self._requests.is_full_for(self._client):
            raise Busy("as many requests under way as it takes")
        self.resize(n_bytes)
        self._requests.take(self._client)
        self._entered = True

    def resize(self, n_bytes: int) -> None:
        """Reserve `n_bytes` from now on. Raises Busy, and changes nothing, when there is no room."""
        more = n_bytes - self._bytes
        if more > 0 and (self._memory.is_full(more) or self._memory.is_full_for(self._client, more)):
            raise Busy("as many bytes under way as it keeps")
        if more > 0:
            self._memory.take(self._client, more)
        else:
            self._memory.release(self._client, -more)
        self._bytes = n_bytes

    def release(self) -> None:
        """Give everything back; calling it again does nothing."""
        self.resize(0)
        if self._entered:
            self._requests.release(self._client)
            self._entered = False


@lru_cache(maxsize=1024)
def client_key(address: str) -> str:
    """What quotas count an address by: an IPv4 address itself, of IPv6 the /64 network, one subscriber's."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
