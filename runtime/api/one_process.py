"""What belongs to the process that made it."""

from __future__ import annotations

from typing import NoReturn


class OfOneProcess:
    """A session, or what it has made: engines, threads and connections cannot be copied."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} can be neither pickled nor copied, since it belongs to its process: "
            "open a session in each process, with pedsam.open"
        )
