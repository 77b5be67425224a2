"""What the parts of a running site share."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.keys import SiteKeys
from server.limits import Limits, Quotas
from server.model.versions import Version
from server.refusals import Refusals
from stages.bundle import Bundle


class Phase(enum.Enum):
    LOADING = "loading"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(eq=False)
class SiteState:
    """`bundles` are what is to be served, by version; `versions` are there from the end of loading on."""

    bundles: Mapping[str, Bundle]
    keys: SiteKeys | None = None
    phase: Phase = Phase.LOADING
    versions: Mapping[str, Version] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)
    limits: Limits = field(default_factory=Limits)
    quotas: Quotas = field(init=False)

    def __post_init__(self) -> None:
        self.quotas = Quotas(self.limits)

    @property
    def live(self) -> bool:
        """False when only a new start helps: an engine call does not come back, or a batcher has crashed."""
        return self.phase is not Phase.SERVING or not self._broken

    @property
    def ready(self) -> bool:
        return self.phase is Phase.SERVING and not self._broken

    @property
    def _broken(self) -> bool:
        batchers = [version.batcher for version in self.versions.values()]
        return any(batcher.stopped or batcher.stalled for batcher in batchers)

    @property
    def latest(self) -> str:
        """The version that serves requests naming none."""
        return list(self.bundles)[-1]

    def open(self, versions: Mapping[str, Version]) -> None:
        """All is loaded: serve."""
        self.versions = versions
        self.phase = Phase.SERVING
