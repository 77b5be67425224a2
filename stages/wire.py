"""Open Inference Protocol v2 over HTTP with the binary tensor data extension, both directions.

A message is a JSON header, then the raw little-endian bytes of the binary tensors in header order, without
padding. `Inference-Header-Content-Length` counts the header's bytes; a message without it is all JSON.
Sources: KServe "Open Inference Protocol", Triton "Binary Tensor Data Extension".

A field that may be left out may be null too: some clients write null for what they leave out.

Nothing here touches a socket. Decoding checks every size before it makes an array, and the arrays it makes
are read-only views of the body.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from stages import json_header
from stages.errors import WireError, printable
from stages.json_values import brief
from stages.tensors import Array, TensorSpec, check_shapes, check_values, dtype_name

HEADER_LENGTH = "Inference-Header-Content-Length"
MODEL = "window"
VERSION = "1"
MAX_VERSIONS = 8  # a site serves no more, and an edge looks at no more

DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
}
OIP_NAME = {dtype: name for name, dtype in DATATYPES.items()}

_MAX_SIDES = 16
_MAX_INT64 = (1 << 63) - 1  # what the extension says a size fits into
_ERROR_CHARACTERS = 4096
# Clients send the same header again and again: what it says is remembered, of headers up to so many bytes.
_REMEMBERED_BYTES, _REMEMBERED = 1024, 128

if sys.byteorder != "little":  # pragma: no cover
    raise ImportError("this wire format needs a little-endian machine")


_Described: TypeAlias = tuple[str, str, tuple[int, ...]]  # name, dtype and shape of an array


@dataclass(frozen=True)
class InferRequest:
    """A decoded request. `outputs` maps each wanted output, in the model's order, to "send it binary"."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, bool]
    id: str | None

    @property
    def batch(self) -> int:
        return len(next(iter(self.inputs.values())))


@dataclass(frozen=True)
class Message:
    """Bytes ready to send and the length of their JSON header (None when all is JSON)."""

    body: bytes
    header_length: int | None

    @property
    def headers(self) -> dict[str, str]:
        if self.header_length is None:
            return {"Content-Type": "application/json"}
        return {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(self.header_length)}


def encode_request(inputs: Mapping[str, Array], outputs: Sequence[str]) -> Message:
    """A request with binary tensors both ways."""
    return _join(_binary_request(_described(inputs), tuple(outputs)), inputs.values())


def encode_response(
    outputs: Mapping[str, Array],
    binary: Mapping[str, bool],
    request_id: str | None = None,
    version: str = VERSION,
) -> Message:
    """A response; `binary` says of each output whether it travels as bytes or as JSON numbers."""
    head = {"model_name": MODEL, "model_version": version}
    if request_id is not None:
        head["id"] = request_id
    if all(binary[name] for name in outputs):
        return _join(_binary_response(tuple(head.items()), _described(outputs)), outputs.values())
    tensors = [
        _binary_head(*described) if binary[name] else _json_tensor(described, outputs[name])
        for name, described in zip(outputs, _described(outputs), strict=True)
    ]
    header = _dumps(head | {"outputs": tensors})
    if not any(binary[name] for name in outputs):
        return Message(header, None)
    return _join(header, [array for name, array in outputs.items() if binary[name]])


@lru_cache(maxsize=_REMEMBERED)
def _binary_response(head: tuple[tuple[str, str], ...], tensors: tuple[_Described, ...]) -> bytes:
    return _dumps(dict(head) | {"outputs": [_binary_head(*described) for described in tensors]})


@lru_cache(maxsize=_REMEMBERED)
def _binary_request(tensors: tuple[_Described, ...], outputs: tuple[str, ...]) -> bytes:
    return _dumps(
        {
            "inputs": [_binary_head(*described) for described in tensors],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in outputs],
        }
    )


def _described(arrays: Mapping[str, Array]) -> tuple[_Described, ...]:
    return tuple((name, dtype_name(array.dtype), array.shape) for name, array in arrays.items())


def _binary_head(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return _tensor_head(name, dtype, shape) | {"parameters": {"binary_data_size": size}}


def _json_tensor(described: _Described, array: Array) -> dict[str, Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise WireError(
            f"{described[0]} has values that JSON cannot hold; ask for it as binary data", status=500
        )
    return _tensor_head(*described) | {"data": array.ravel().tolist()}


def _tensor_head(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": OIP_NAME[dtype], "shape": list(shape)}


def _join(header: bytes, arrays: Iterable[Array]) -> Message:
    parts = [np.ascontiguousarray(array).data.cast("B") for array in arrays]
    return Message(b"".join([header, *parts]), len(header))


def _dumps(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def decode_request(
    body: bytes,
    header_length: str | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    max_batch: int,
) -> InferRequest:
    """Check a request against the model's tensors. `header_length` is that HTTP header's text, if sent.

    Raises WireError (status 400) with one sentence for anything but a well-formed request.
    """
    header, binary = _split(body, header_length)
    read = _remembered_request if len(header) <= _REMEMBERED_BYTES else _read_request
    entries, wanted, request_id = read(header, tuple(inputs), tuple(outputs), max_batch)
    arrays = _arrays(entries, binary)
    check_values(inputs, arrays, WireError)
    return InferRequest({spec.name: arrays[spec.name] for spec in inputs}, dict(wanted), request_id)


def decode_response(
    body: bytes, header_length: str | None, outputs: Sequence[TensorSpec], batch: int
) -> dict[str, Array]:
    """The outputs of a response by name; more than the expected ones is not an error, fewer is.

    Raises WireError when the message is malformed or a tensor is not what `outputs` say for `batch` tiles.
    """
    header, binary = _split(body, header_length)
    read = _remembered_response if len(header) <= _REMEMBERED_BYTES else _read_response
    arrays = _arrays(read(header, tuple(outputs), batch), binary)
    check_values(outputs, arrays, WireError)
    if any(len(array) != batch for array in arrays.values()):
        raise WireError(f"the response does not hold {batch} tiles")
    return arrays


def only_length(values: Sequence[str]) -> str | None:
    """The text of the one HEADER_LENGTH of a message, None without one.

    Raises WireError for several: who reads the other one finds another message.
    """
    if len(values) > 1:
        raise WireError(f"{HEADER_LENGTH} is given {len(values)} times; send it once")
    return values[0] if values else None


def error_text(body: bytes) -> str:
    """The sentence in an error body: sites send {"error": ...} as JSON or as text, proxies send anything."""
    try:
        said = json_header.read(body).get("error")
    except WireError:
        said = None
    text = said if isinstance(said, str) else body.decode("utf-8", "replace")
    words = " ".join(text[:_ERROR_CHARACTERS].split())[:300]
    return printable(words) or "no explanation"  # nothing in it may steer the terminal it is shown on


def _split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    length = _parse_length(header_length, len(body))
    return body[:length], memoryview(body)[length:]


def _read_request(
    header: bytes, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_batch: int
) -> tuple[tuple[_Entry, ...], tuple[tuple[str, bool], ...], str | None]:
    head = json_header.read(header)
    entries = _tensor_entries(head, "inputs", inputs, max_batch)
    return entries, tuple(_wanted_outputs(head, outputs).items()), _request_id(head)


def _read_response(header: bytes, outputs: tuple[TensorSpec, ...], batch: int) -> tuple[_Entry, ...]:
    return _tensor_entries(json_header.read(header), "outputs", outputs, batch)


_remembered_request = lru_cache(maxsize=_REMEMBERED)(_read_request)
_remembered_response = lru_cache(maxsize=_REMEMBERED)(_read_response)


def _parse_length(text: str | None, body_bytes: int) -> int:
    if text is None:
        return body_bytes
    if not (text.isascii() and text.isdigit() and len(text) < 12) or int(text) == 0:
        raise WireError(f"{HEADER_LENGTH} must be a positive number of bytes")
    length = int(text)
    if length > body_bytes:
        raise WireError(f"{HEADER_LENGTH} is {length}, this body has {body_bytes} bytes")
    return length


@dataclass(frozen=True)
class _Entry:
    """One tensor of a header. Of `spec` None, more than was asked for, only the bytes are known; `size` is
    None where its numbers are in the header, which are `data` then."""

    name: str
    spec: TensorSpec | None
    shape: tuple[int, ...]
    size: int | None
    data: Any = None


def _tensor_entries(
    head: Mapping[str, Any], key: str, specs: Sequence[TensorSpec], max_batch: int
) -> tuple[_Entry, ...]:
    """The tensors in a header, in its order; their bytes, if any, follow it in the same order."""
    known = {spec.name: spec for spec in specs}
    found: list[_Entry] = []
    for entry in _entries(head, key, required=True):
        name = _name(entry)
        if key == "outputs" and name not in known:
            found.append(_Entry(brief(name), None, (), _binary_size(entry) or 0))
            continue
        if name not in known:
            raise WireError(f"unexpected input {brief(name)}; the model takes {sorted(known)}")
        if any(name == other.name for other in found if other.spec is not None):
            raise WireError(f"tensor {name} appears twice")
        shape = _shape(entry, known[name], max_batch)
        found.append(_Entry(name, known[name], shape, _size(entry, known[name], shape), entry.get("data")))
    given = {each.name: (each.shape, each.spec.dtype) for each in found if each.spec is not None}
    check_shapes(specs, given, WireError)
    return tuple(found)


def _size(entry: Mapping[str, Any], spec: TensorSpec, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor behind the header, None where its numbers are in it."""
    size, expected = _binary_size(entry), math.prod(shape) * np.dtype(spec.dtype).itemsize
    if size is not None and size != expected:
        raise WireError(f"{spec.name} has binary_data_size {size}, its shape needs {expected}")
    return size


def _arrays(entries: Sequence[_Entry], binary: memoryview) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for entry in entries:
        if entry.spec is not None and entry.size is None:
            arrays[entry.name] = _from_json(entry.data, entry.spec, entry.shape)
            continue
        size = entry.size or 0
        if len(binary) < size:
            raise WireError(f"the body ends {size - len(binary)} bytes before the end of {entry.name}")
        if entry.spec is not None:
            arrays[entry.name] = np.frombuffer(binary[:size], entry.spec.dtype).reshape(entry.shape)
        binary = binary[size:]
    if len(binary):
        raise WireError(f"{len(binary)} bytes follow the last tensor")
    return arrays


def _entries(head: Mapping[str, Any], key: str, required: bool) -> list[dict[str, Any]]:
    entries = head.get(key)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or len(entries) > 16 or (required and not entries):
        raise WireError(f"{key} must be a list of 1 to 16 tensors")
    if not all(isinstance(entry, dict) for entry in entries):
        raise WireError(f"{key} must hold objects")
    return entries


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise WireError("a tensor has no name")
    return name


def _shape(entry: Mapping[str, Any], spec: TensorSpec, max_batch: int) -> tuple[int, ...]:
    """The entry's shape after it and the datatype were checked against the spec."""
    shape, datatype = entry.get("shape"), entry.get("datatype")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape[:_MAX_SIDES]):
        raise WireError(f"{spec.name} has no shape of whole numbers")
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise WireError(f"{spec.name} has datatype {brief(datatype)}, expected {OIP_NAME[spec.dtype]}")
    if len(shape) > _MAX_SIDES:
        raise WireError(f"{spec.name} has a shape of {len(shape)} sides, expected {len(spec.shape)}")
    if problem := spec.problem(shape, DATATYPES[datatype]):
        raise WireError(problem)
    if isinstance(spec.shape[0], str) and shape[0] > max_batch:
        raise WireError(f"{spec.name} has batch {brief(shape[0])}, expected at most {max_batch}")
    return tuple(shape)


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of a message or a tensor, without those that are null."""
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise WireError("parameters must be an object")
    return {key: value for key, value in parameters.items() if value is not None}


def _binary_size(entry: Mapping[str, Any]) -> int | None:
    parameters = _parameters(entry)
    if "shared_memory_region" in parameters:
        raise WireError("shared memory is not served here; send tensors in the body")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or not 0 <= size <= _MAX_INT64):
        raise WireError("binary_data_size must be a whole number of bytes")
    if size is not None and entry.get("data") is not None:
        raise WireError("a tensor has both data and binary_data_size; send one of them")
    return size


def _from_json(data: object, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    if spec.dtype == "float16":
        raise WireError(f"{spec.name} is FP16, which has no JSON form; send it as binary data")
    if not isinstance(data, list):
        raise WireError(f"{spec.name} has neither data nor binary_data_size")
    values = _values(data, shape, spec.name)
    if len(values) != math.prod(shape):
        raise WireError(f"{spec.name} has {len(values)} values, its shape needs {math.prod(shape)}")
    return _cast(values, spec).reshape(shape)


def _values(data: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """Row-major items of a list that is flat or nested as `shape` says."""
    if not (data and isinstance(data[0], list)):
        return data
    level: list[Any] = [data]
    for size in shape:  # each level is checked before the next is made, so that none outgrows the shape
        if any(not isinstance(item, list) or len(item) != size for item in level):
            raise WireError(f"the data of {name} is not nested as its shape says")
        level = list(chain.from_iterable(level))
    return level


def _cast(values: list[Any], spec: TensorSpec) -> Array:
    """JSON numbers as the spec's dtype, refusing values it cannot hold.

    Types are checked first: of one long string among numbers numpy would make an array of long strings.
    """
    dtype = np.dtype(spec.dtype)
    if not {type(value) for value in values} <= _JSON_TYPES[dtype.kind]:
        raise WireError(f"the data of {spec.name} does not hold {OIP_NAME[spec.dtype]} values")
    low, high = _limits(dtype)
    if min(values) < low or max(values) > high:
        raise WireError(f"the data of {spec.name} goes beyond {OIP_NAME[spec.dtype]}")
    return np.array(values, dtype)


_JSON_TYPES: Mapping[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float}}


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Smallest and largest value of a dtype, as Python numbers, which compare with any other."""
    if dtype.kind == "b":
        return False, True
    if dtype.kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _wanted_outputs(head: Mapping[str, Any], specs: Sequence[TensorSpec]) -> dict[str, bool]:
    all_binary = _flag(_parameters(head), "binary_data_output", False)
    entries = _entries(head, "outputs", required=False)
    asked: dict[str, bool] = {}
    for entry in entries:
        name = _name(entry)
        if name in asked:
            raise WireError(f"output {brief(name)} is asked for twice; name each output once")
        asked[name] = _wants_binary(entry, all_binary)
    known = [spec.name for spec in specs]
    if unknown := sorted(set(asked) - set(known)):
        raise WireError(f"unexpected output {brief(unknown[0])}; the model gives {known}")
    wanted = {name: asked.get(name, all_binary) for name in known if name in asked or not entries}
    for spec in specs:
        if wanted.get(spec.name) is False and spec.dtype == "float16":
            raise WireError(f"{spec.name} is FP16, which has no JSON form; ask for it as binary data")
    return wanted


def _wants_binary(entry: Mapping[str, Any], default: bool) -> bool:
    parameters = _parameters(entry)
    if elsewhere := {"classification", "shared_memory_region"} & parameters.keys():
        raise WireError(f"{elsewhere.pop()} is not served here; outputs come whole, in the body")
    return _flag(parameters, "binary_data", default)


def _flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise WireError(f"{key} must be true or false")
    return value


def _request_id(head: Mapping[str, Any]) -> str | None:
    """The request's id, echoed in the answer; some clients number their requests, and get text back."""
    value = head.get("id")
    if value is None:
        return None
    if type(value) not in (str, int) or len(str(value)) > 256:
        raise WireError("id must be a short string")
    return str(value)
