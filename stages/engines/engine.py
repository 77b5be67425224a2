"""The interface of every backend that runs a stage.

An engine goes closed -> open -> closed, once. `infer` is the same for every backend: it checks state, names,
dtypes and shapes, then calls the backend's own part.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from stages.bundle import Stage
from stages.errors import EngineError
from stages.tensors import Array, check_arrays


class EngineState(enum.Enum):
    NEW = "not opened yet"
    OPEN = "open"
    CLOSED = "closed"


class Engine(ABC):
    """A stage made ready to run. Not thread-safe: open, use and close it on one thread."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._state = EngineState.NEW

    @property
    @abstractmethod
    def backend(self) -> str:
        """Backend and device for people: "onnxruntime 1.31 on CPU"."""

    @property
    @abstractmethod
    def preferred_batch(self) -> int:
        """The batch size beyond which throughput no longer grows."""

    @property
    def largest_batch(self) -> int:
        """Tiles that are wanted together run in one call up to this size, beyond which that gains nothing."""
        return self.preferred_batch

    def open(self) -> None:
        """Load the engine. Raises EngineError or BundleError; after a failure nothing is left behind."""
        if self._state is not EngineState.NEW:
            raise EngineError(f"engine {self.stage.name} is {self._state.value}; make a new one")
        self._activate()
        self._state = EngineState.OPEN

    def infer(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once on C-contiguous arrays and return the named outputs (all of them by default).

        Results belong to the caller. Raises EngineError for wrong names, dtypes, shapes or state.
        """
        if self._state is not EngineState.OPEN:
            raise EngineError(f"engine {self.stage.name} is {self._state.value}; open it first")
        check_arrays(self.stage.inputs, feeds)
        known = [spec.name for spec in self.stage.outputs]
        wanted = known if outputs is None else list(outputs)
        if unknown := sorted(set(wanted) - set(known)):
            raise EngineError(f"stage {self.stage.name} has no output {unknown}, only {known}")
        return self._infer(feeds, wanted)

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        opened, self._state = self._state is EngineState.OPEN, EngineState.CLOSED
        if opened:
            self._deactivate()

    @abstractmethod
    def _activate(self) -> None: ...

    @abstractmethod
    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]: ...

    @abstractmethod
    def _deactivate(self) -> None: ...
