"""All rows, and what Triton 2.51 was seen to answer to each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tests.server.conformance.fields import FIELDS
from tests.server.conformance.header import JSON
from tests.server.conformance.outputs import OUTPUTS
from tests.server.conformance.routes import ROUTES
from tests.server.conformance.tensors import TENSORS
from tests.server.conformance.transport import HEADER_LENGTH, TRANSPORT
from tests.server.conformance.values import VALUES

ROWS = (*ROUTES, *TRANSPORT, *HEADER_LENGTH, *JSON, *FIELDS, *TENSORS, *VALUES, *OUTPUTS)
CAPTURE = Path(__file__).with_name("triton_2_51.json")  # `make test-triton` holds it against a real one

# Of each answer: its headers but those of framing, and its first words.
Capture = Mapping[str, Mapping[str, str]]


def captured() -> Capture:
    capture: Capture = json.loads(CAPTURE.read_text())
    return capture
