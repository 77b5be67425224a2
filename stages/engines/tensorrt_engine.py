"""Run a stage with TensorRT (10.3 to 11, or TensorRT for RTX), its memory held by pycuda.

Everything here belongs to the thread that opens the engine. Each call makes the device's primary context
current and pops it again, so that engines of one process, onnxruntime's included, share it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.bundle import Bundle
from stages.engines.devices import Device
from stages.engines.engine import Engine
from stages.engines.out_of_memory import says_out_of_memory
from stages.engines.plans import (
    WINDOW_AXIS,
    Shapes,
    axis_sizes,
    load_plan,
    plan_key,
    plan_path,
    profile_shapes,
    read_record,
)
from stages.errors import EngineError
from stages.tensors import Array, TensorSpec

LIBRARIES = ("tensorrt", "tensorrt_rtx")
_KEPT_ERRORS, _REASON_CHARACTERS = 16, 500  # of TensorRT's own log, for one sentence
_LESS_MEMORY = "stop other programs on this GPU or use a smaller model"
_INSTALL = {
    "tensorrt": "on Jetson it comes with JetPack (python3-libnvinfer, for the system's Python: make the "
    "virtual environment with --system-site-packages); elsewhere pip install tensorrt, or tensorrt-rtx",
    "tensorrt_rtx": "pip install tensorrt-rtx",
    "pycuda": "pip install pycuda, which needs the CUDA toolkit (nvcc on the PATH)",
}


def tensorrt_library(name: str | None = None) -> Any:
    """The TensorRT module `name`, or whichever is installed. Raises EngineError saying how to get it."""
    if name and name not in LIBRARIES:
        raise EngineError(f"{name!r:.80} is no TensorRT, expected one of {', '.join(LIBRARIES)}")
    for candidate in [name] if name else LIBRARIES:
        if importlib.util.find_spec(candidate):
            return _imported(candidate)
    return _imported(name or LIBRARIES[0])


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise EngineError(
            f"the Python module {name} is missing ({exc}): {_INSTALL[name.split('.')[0]]}"
        ) from exc


@dataclass
class Tensor:
    """Memory of one input or output, large enough for the largest shape of the engine.

    `host` is pinned, flat, and the engine's own. `device` is the address that the engine reads or writes: of
    memory on the GPU (`allocation`) that `host` is copied to or from; or, where both share memory, of `host`.
    """

    spec: TensorSpec
    host: Array
    device: int
    allocation: Any = None

    def view(self, shape: Sequence[int]) -> Array:
        """The part of `host` that holds a tensor of this shape."""
        return self.host[: int(np.prod(shape))].reshape(shape)


class TensorRtEngine(Engine):
    """The stage's plan from the bundle, on `device`.

    Buffers belong to the engine and are used again in every call; the arrays that `infer` returns are copies,
    the caller's own. `modules` are TensorRT and `pycuda.driver`; by default they are imported when the engine
    opens, the TensorRT that the plan's record names.
    """

    def __init__(
        self, bundle: Bundle, name: str, device: Device, modules: tuple[Any, Any] | None = None
    ) -> None:
        super().__init__(bundle.stage(name))
        self._bundle = bundle
        self._device = device
        self._modules = modules
        self._limits: Shapes = profile_shapes(bundle, name)
        self._version = "TensorRT"
        self._loaded: _LoadedPlan | None = None

    @property
    def backend(self) -> str:
        return f"{self._version} on {self._device}"

    @property
    def preferred_batch(self) -> int:
        """What the plan was tuned for; the stages of the edge have no batch of tiles."""
        batched = any(spec.shape[0] == WINDOW_AXIS for spec in self.stage.inputs)
        return axis_sizes(self._bundle.geometry)[WINDOW_AXIS][1] if batched else 1

    def _activate(self) -> None:
        plan = plan_path(self._bundle, self.stage.name, self._device)
        trt, cuda = self._modules or (
            tensorrt_library(read_record(plan).key.library),
            _imported("pycuda.driver"),
        )
        library = trt.__name__.partition(".")[0]
        data = load_plan(
            plan, plan_key(self._bundle, self.stage.name, self._device, library, trt.__version__)
        )
        with self._cuda_errors(cuda):
            loaded = _LoadedPlan(cuda)
            with loaded.current(), contextlib.ExitStack() as undo:
                undo.callback(loaded.free)
                loaded.load(trt, data, f"{plan}: {library} {trt.__version__}")
                loaded.allocate(self.stage, self._limits, self._device.integrated)
                undo.pop_all()
        self._loaded = loaded
        self._version = f"{library} {trt.__version__}"

    def _infer(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        opened = self._require_loaded
        self._check_sizes(feeds)
        with self._cuda_errors(opened.cuda), opened.current():
            parts = [opened.run(part, outputs) for part in self._parts(feeds)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def _deactivate(self) -> None:
        opened = self._require_loaded
        self._loaded = None
        with self._cuda_errors(opened.cuda), opened.current():
            opened.free()

    @property
    def _require_loaded(self) -> _LoadedPlan:
        if self._loaded is None:
            raise EngineError(f"engine {self.stage.name} is not open")
        return self._loaded

    def _check_sizes(self, feeds: Mapping[str, Array]) -> None:
        """Only the first axis can be run in parts; any other has to fit the plan."""
        for name, (_, _, largest) in self._limits.items():
            shape = feeds[name].shape
            if any(got > most for got, most in zip(shape[1:], largest[1:], strict=True)):
                raise EngineError(
                    f"{name} has shape {list(shape)}, and the engine of stage {self.stage.name} takes up to "
                    f"{list(largest)}; give fewer points to an object"
                )

    def _parts(self, feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """The feeds in parts that the plan takes, cut along the first axis where it is dynamic."""
        if not self._limits:
            yield dict(feeds)
            return
        cut = {name: feeds[name] for name in self._limits}
        most = min(largest[0] for _, _, largest in self._limits.values())
        for start in range(0, len(next(iter(cut.values()))), most):
            yield {**feeds, **{name: array[start : start + most] for name, array in cut.items()}}

    @contextlib.contextmanager
    def _cuda_errors(self, cuda: Any) -> Iterator[None]:
        """pycuda's errors as EngineError."""
        try:
            yield
        except cuda.Error as exc:
            raise EngineError(
                f"CUDA failed on stage {self.stage.name} ({exc}); if memory ran out, stop other programs on "
                f"{self._device} or use a smaller model; else restart this one"
            ) from exc


class _LoadedPlan:
    """What an open engine holds. All but the context is made and freed while the context is current."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self._stack = contextlib.ExitStack()
        cuda.init()
        self._context = cuda.Device(0).retain_primary_context()
        self._engine: Any = None
        self._execution: Any = None
        self._logger: Any = None
        self._stream: Any = None
        self._tensors: dict[str, Tensor] = {}
        self._inputs: frozenset[str] = frozenset()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def free(self) -> None:
        """Give back, in reverse, whatever is held by now."""
        self._stack.close()

    def load(self, trt: Any, plan: bytes, what: str) -> None:
        """Deserialise, as TensorRT calls it. `what` names plan and library in an error."""
        self._logger = logger = error_logger(trt)
        runtime = trt.Runtime(logger)
        self._engine = runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            reason = logger.reason()
            if says_out_of_memory(reason):
                raise EngineError(f"{what} has no memory to load this plan: {reason}; {_LESS_MEMORY}")
            raise EngineError(f"{what} cannot load this plan: {reason}; run pedsam build again")
        logger.clear()
        self._execution = self._engine.create_execution_context()
        if self._execution is None:
            raise EngineError(f"{what} has no memory to run this plan: {logger.reason()}; {_LESS_MEMORY}")
        self._stack.callback(self._drop, runtime)

    def _drop(self, _runtime: Any) -> None:
        """Execution context, then engine; the runtime they came from is freed when this returns."""
        self._execution = None
        self._engine = None

    def allocate(self, stage: Any, limits: Shapes, integrated: bool) -> None:
        """Memory for every input and output at its largest, and their fixed addresses."""
        self._inputs = frozenset(spec.name for spec in stage.inputs)
        self._stream = self.cuda.Stream()
        for spec in (*stage.inputs, *stage.outputs):
            tensor = self._tensor(spec, _elements(spec, limits, stage.inputs), integrated)
            self._tensors[spec.name] = tensor
            self._execution.set_tensor_address(spec.name, tensor.device)
        self._stack.callback(self._forget)

    def _forget(self) -> None:
        self._tensors.clear()
        self._stream = None

    def _tensor(self, spec: TensorSpec, elements: int, integrated: bool) -> Tensor:
        cuda = self.cuda
        # Network inputs are read once and outputs written once, so that on a GPU which shares the system's
        # memory it works on the pinned buffers themselves, and nothing is copied.
        flags = cuda.host_alloc_flags.DEVICEMAP if integrated else 0
        host = cuda.pagelocked_empty(elements, np.dtype(spec.dtype), mem_flags=flags)
        self._stack.callback(host.base.free)
        if integrated:
            return Tensor(spec, host, int(host.base.get_device_pointer()))
        memory = cuda.mem_alloc(host.nbytes)
        self._stack.callback(memory.free)
        return Tensor(spec, host, int(memory), memory)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """One execution; what it returns is copied out of the engine's own memory."""
        axes = {
            axis: size
            for name in self._inputs
            for axis, size in zip(self._tensors[name].spec.shape, feeds[name].shape, strict=True)
            if isinstance(axis, str)
        }
        self._logger.clear()
        for name in self._inputs:
            self._upload(name, feeds[name])
        if not self._execution.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT refused to run its plan: {self._logger.reason()}")
        shapes = {name: _shape(self._tensors[name].spec, axes) for name in outputs}
        for name, shape in shapes.items():
            self._download(name, shape)
        self._stream.synchronize()
        return {name: self._tensors[name].view(shape).copy() for name, shape in shapes.items()}

    def _upload(self, name: str, array: Array) -> None:
        tensor = self._tensors[name]
        view = tensor.view(array.shape)
        np.copyto(view, array)
        if not self._execution.set_input_shape(name, array.shape):
            raise EngineError(
                f"TensorRT does not take {name} of shape {list(array.shape)}: {self._logger.reason()}"
            )
        if tensor.allocation is not None:
            self.cuda.memcpy_htod_async(tensor.device, view, self._stream)

    def _download(self, name: str, shape: Sequence[int]) -> None:
        tensor = self._tensors[name]
        if tensor.allocation is not None:
            self.cuda.memcpy_dtoh_async(tensor.view(shape), tensor.device, self._stream)


def _elements(spec: TensorSpec, limits: Shapes, inputs: Sequence[TensorSpec]) -> int:
    """Elements of the largest tensor of this spec that the plan takes or gives."""
    largest = {
        axis: size
        for each in inputs
        if each.name in limits
        for axis, size in zip(each.shape, limits[each.name][2], strict=True)
        if isinstance(axis, str)
    }
    return int(np.prod(_shape(spec, largest)))


def _shape(spec: TensorSpec, axes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axes[axis] if isinstance(axis, str) else axis for axis in spec.shape)


def error_logger(trt: Any, line: Callable[[str], None] | None = None) -> Any:
    """A TensorRT logger that keeps errors for our own sentences and prints nothing; `line` gets the rest.

    `clear` before each call that may fail, so that `reason` holds what that call said.
    """

    class Errors(trt.ILogger):  # type: ignore[misc]  # the base exists once TensorRT is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=_KEPT_ERRORS)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self._errors.append(" ".join(message.split())[:_REASON_CHARACTERS])
            elif line is not None:
                line(message)

        def clear(self) -> None:
            self._errors.clear()

        def reason(self) -> str:
            """The newest errors that fit into _REASON_CHARACTERS, whole, in the order they came."""
            kept: list[str] = []
            for error in reversed(self._errors):
                kept.insert(0, error)
                if len("; ".join(kept)) > _REASON_CHARACTERS:
                    del kept[0]
                    break
            return "; ".join(kept) or "it gives no reason"

    return Errors()
