"""A GPU made of this machine's own memory, and TensorRT engines that compute with onnxruntime on it.

The declared seam of TensorRtEngine are its two modules. These stand in for them where no GPU is: allocations
are real memory, addresses are real addresses, and an engine reads and writes nothing but the addresses it was
given. What they cannot show is whether NVIDIA's own modules do the same: that is tests/gpu.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from stages.bundle import MANIFEST, Bundle, Stage
from stages.engines.devices import Device
from stages.engines.plans import PlanKey, PlanRecord, plan_key, plan_path, save_plan
from stages.tensors import Array

DISCRETE = Device("Test Card", (8, 6), 8 << 30, integrated=False)
BOARD = Device("Test Board", (8, 6), 8 << 30, integrated=True)
LIBRARY, VERSION = "tensorrt", "10.3.0"
BROKEN = b"not what TensorRT wrote"


def linked(bundle: Bundle, folder: Path) -> Bundle:
    """The same bundle at `folder`, its stages as links, so that engines can be put beside them."""
    folder.mkdir(exist_ok=True)
    shutil.copy(bundle.path / MANIFEST, folder)
    for name in ("edge", *bundle.stages):
        if (bundle.path / name).exists():
            (folder / name).symlink_to(bundle.path / name)
    return Bundle.load(folder)


def record_of(key: PlanKey, data: bytes, **changes: Any) -> PlanRecord:
    facts: dict[str, Any] = {
        "key": key,
        "plan_sha256": hashlib.sha256(data).hexdigest(),
        "plan_bytes": len(data),
        "build_s": 1.5,
        "weights_bytes": 10,
        "activation_bytes": 20,
        "peak_bytes": 30,
    }
    return PlanRecord(**{**facts, **changes})


def put_plan(bundle: Bundle, name: str, device: Device, data: bytes | None = None) -> Path:
    """A plan for FakeTensorRt, with its record: the path of the ONNX that it "was built from"."""
    plan = plan_path(bundle, name, device)
    content = str(bundle.path / bundle.stage(name).file).encode() if data is None else data
    key = plan_key(bundle, name, device, LIBRARY, VERSION)
    save_plan(plan, content, record_of(key, content))
    return plan


class CudaError(Exception):
    """pycuda.driver.Error"""


@dataclass
class FakeCuda:
    """pycuda.driver. `fail_at` names the call that fails, once `spare` such calls have worked."""

    fail_at: str = ""
    spare: int = 0
    live: list[Any] = field(default_factory=list)
    stack: list[Any] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    Error: type[Exception] = CudaError

    class host_alloc_flags:  # noqa: N801  (pycuda's own name)
        DEVICEMAP = 2

    def note(self, call: str, needs_context: bool = True) -> None:
        assert self.stack or not needs_context, f"{call} without a current context"
        self.calls.append(call)
        if call == self.fail_at:
            self.spare -= 1
            if self.spare < 0:
                raise CudaError(f"{call} failed: out of memory")

    def init(self) -> None:
        self.note("init", needs_context=False)

    def Device(self, number: int) -> FakeCuda:  # noqa: N802
        assert number == 0
        return self

    def retain_primary_context(self) -> FakeContext:
        self.note("retain_primary_context", needs_context=False)
        return FakeContext(self)

    def Stream(self) -> FakeStream:  # noqa: N802
        self.note("Stream")
        return FakeStream(self)

    def pagelocked_empty(self, elements: int, dtype: np.dtype[Any], mem_flags: int = 0) -> Array:
        self.note("pagelocked_empty")
        return np.asarray(Memory(self, elements * dtype.itemsize, dtype.str, mem_flags))

    def mem_alloc(self, size: int) -> Memory:
        self.note("mem_alloc")
        return Memory(self, size)

    def memcpy_htod_async(self, device: int, host: Array, stream: FakeStream) -> None:
        self.note("memcpy_htod_async")
        assert host.flags.c_contiguous
        ctypes.memmove(device, host.ctypes.data, host.nbytes)

    def memcpy_dtoh_async(self, host: Array, device: int, stream: FakeStream) -> None:
        self.note("memcpy_dtoh_async")
        assert host.flags.c_contiguous
        ctypes.memmove(host.ctypes.data, device, host.nbytes)


class Memory:
    """One allocation, of the host or the device, until it is freed; a pinned array's `base`."""

    def __init__(self, cuda: FakeCuda, size: int, dtype: str = "|u1", flags: int = 0) -> None:
        self._cuda = cuda
        self._flags = flags
        self._bytes = (ctypes.c_uint8 * size)()
        items = size // np.dtype(dtype).itemsize
        address = ctypes.addressof(self._bytes)
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (items,),
            "typestr": dtype,
            "version": 3,
        }
        cuda.live.append(self)

    def __int__(self) -> int:
        return ctypes.addressof(self._bytes)

    def get_device_pointer(self) -> int:
        assert self._flags == FakeCuda.host_alloc_flags.DEVICEMAP, "not mapped"
        return int(self)

    def free(self) -> None:
        self._cuda.note("free")
        self._cuda.live.remove(self)


class FakeContext:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def push(self) -> None:
        self._cuda.stack.append(self)

    def pop(self) -> None:
        assert self._cuda.stack.pop() is self


class FakeStream:
    handle = 7

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda

    def synchronize(self) -> None:
        self._cuda.note("synchronize")


class FakeTensorRt:
    """The module tensorrt, as far as running a plan goes."""

    class ILogger:
        class Severity:
            ERROR, WARNING = 1, 2

        def log(self, severity: int, message: str) -> None:
            raise NotImplementedError

    def __init__(self, bundle: Bundle, stage: str, memory: bool = True) -> None:
        self.__name__, self.__version__ = LIBRARY, VERSION
        self._stage = bundle.stage(stage)
        self._memory = memory
        self.execution: FakeExecution | None = None
        self.errors: list[str] = []  # what the next execution logs before it fails
        self.loading: list[tuple[int, str]] = []  # what is logged while a plan is deserialised

    def Runtime(self, logger: Any) -> FakeTensorRt:  # noqa: N802
        self._logger = logger
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> FakeTensorRt | None:
        for severity, message in self.loading:
            self._logger.log(severity, message)
        if plan == BROKEN and self.loading:
            return None
        if plan == BROKEN:
            self._logger.log(1, "deserializeCudaEngine: magicTag\n does not match")
            return None
        self._onnx = plan.decode()
        return self

    def create_execution_context(self) -> FakeExecution | None:
        if not self._memory:
            self._logger.log(1, "createExecutionContext: OutOfMemory")
            return None
        self.execution = FakeExecution(self._stage, self._onnx, self._fails)
        return self.execution

    def _fails(self) -> bool:
        """Whether an execution fails; logs why, once."""
        errors, self.errors = self.errors, []
        for error in errors:
            self._logger.log(1, error)
        return bool(errors)


class FakeExecution:
    """Computes with onnxruntime what lies at the addresses of the inputs."""

    def __init__(self, stage: Stage, onnx: str, fails: Callable[[], bool]) -> None:
        self._stage = stage
        self._fails = fails
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.batches: list[int] = []

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeStream.handle
        if self._fails():
            return False
        feeds = {
            spec.name: at(self.addresses[spec.name], self._shapes[spec.name], spec.dtype)
            for spec in self._stage.inputs
        }
        self.batches.append(max(shape[0] for shape in self._shapes.values()))
        results = self._session.run(None, feeds)
        for spec, result in zip(self._stage.outputs, results, strict=True):
            at(self.addresses[spec.name], result.shape, spec.dtype)[...] = result
        return True


def at(address: int, shape: tuple[int, ...], dtype: str) -> Array:
    """An array over memory at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory: Array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return memory.view(dtype).reshape(shape)
