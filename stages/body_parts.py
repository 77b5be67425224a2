"""A message body as its parts come in, without copying large ones twice."""

from __future__ import annotations

SMALL_BYTES = 4096  # smaller parts are put together as they come: a sender may cut a body into single bytes


class BodyParts:
    """Parts of a body in their order. They take little more memory than the body, however small they are."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes | bytearray] = []

    def add(self, part: bytes) -> None:
        self.size += len(part)
        last = self._parts[-1] if self._parts else b""
        if len(part) >= SMALL_BYTES:
            self._parts.append(part)
        elif isinstance(last, bytearray):
            last += part
        else:
            self._parts.append(bytearray(part))

    def whole(self) -> bytes:
        """The body, copied once; a large one that came in one part is that part."""
        return b"".join(self._parts)
