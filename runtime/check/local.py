"""What a run needs of this machine beside its engines: files it will write, ports it will listen on, keys.

All of it is tried, nothing is changed and nothing is left behind. Problems are worded as a run would word
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.live.endpoint import trying_to_listen
from runtime.live.heartbeat import check_heartbeat
from runtime.live.metrics import WHAT as METRICS
from runtime.live.metrics import MetricsOptions, metrics_identity
from runtime.live.mjpeg import WHAT as MJPEG
from runtime.live.mjpeg import MjpegOptions, mjpeg_identity
from runtime.mqtt import MqttOptions, check_mqtt
from runtime.objects.prompts import read_prompts
from runtime.objects.state_file import check_state
from runtime.preview import PreviewOptions, preview_identity
from runtime.results.run_folder import SUMMARY, check_run_folder
from runtime.results.trace import check_trace
from stages.address import Address
from stages.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LocalOptions:
    """Options of `pedsam run` that name files, ports and keys; see its help."""

    prompts: Path | None = None
    state: Path | None = None
    out: Path | None = None
    trace: Path | None = None
    heartbeat: Path | None = None
    preview: int | None = None
    preview_host: str = PreviewOptions.host
    preview_keys: Path | None = None
    metrics_port: int | None = None
    metrics_host: str = MetricsOptions.host
    metrics_keys: Path | None = None
    mjpeg: int | None = None
    mjpeg_host: str = MjpegOptions.host
    mjpeg_keys: Path | None = None
    mqtt: Address | None = None
    mqtt_password_file: Path | None = None
    mqtt_ca: Path | None = None
    mqtt_topic: str = MqttOptions.topic
    mqtt_insecure: bool = False


@dataclass(frozen=True)
class _Endpoint:
    """Where `what` will be served, and the option that gives its port."""

    option: str
    host: str
    port: int
    what: str

    def meets(self, other: _Endpoint) -> bool:
        """Whether both cannot be had, as far as their names show."""
        if self.port != other.port or self.port == 0:
            return False
        families = {":" in host for host in (self.host, other.host) if host != "localhost"}
        anywhere = {"0.0.0.0", "::", "localhost"} & {self.host, other.host}  # noqa: S104  (compared, not bound)
        return self.host == other.host or (bool(anywhere) and len(families) < 2)


async def local_problems(options: LocalOptions) -> list[str]:
    """A sentence for each thing that a run could not use."""
    problems: list[str] = []
    for trial in _trials(options):
        with _noting(problems):
            trial()
    before: list[_Endpoint] = []
    async with contextlib.AsyncExitStack() as ports:  # held together: two names may be one address
        for endpoint in _endpoints(options):
            with _noting(problems):
                _check_apart(endpoint, before)
                await ports.enter_async_context(trying_to_listen(endpoint.host, endpoint.port, endpoint.what))
            before.append(endpoint)
    return problems


def check_ports(options: LocalOptions) -> None:
    """Raise InputError where two of what a run serves are given one port."""
    before: list[_Endpoint] = []
    for endpoint in _endpoints(options):
        _check_apart(endpoint, before)
        before.append(endpoint)


@contextlib.contextmanager
def _noting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except InputError as exc:
        problems.append(str(exc))


def _trials(options: LocalOptions) -> Iterator[Callable[[], object]]:
    if options.prompts is not None:
        yield partial(read_prompts, (), (), options.prompts, options.preview is None)
    if options.state is not None:
        yield partial(check_state, options.state)
    if options.out is not None:
        yield partial(check_run_folder, options.out, [SUMMARY])
    if options.trace is not None:
        yield partial(check_trace, options.trace)
    if options.heartbeat is not None:
        yield partial(check_heartbeat, options.heartbeat)
    if options.preview is not None:
        preview = PreviewOptions(options.preview_host, options.preview, options.preview_keys)
        yield partial(preview_identity, preview)
    if options.metrics_port is not None:
        metrics = MetricsOptions(options.metrics_host, options.metrics_port, options.metrics_keys)
        yield partial(metrics_identity, metrics)
    if options.mjpeg is not None:
        mjpeg = MjpegOptions(options.mjpeg_host, options.mjpeg, options.mjpeg_keys)
        yield partial(mjpeg_identity, mjpeg)
    if options.mqtt is not None:
        file, topic, ca = options.mqtt_password_file, options.mqtt_topic, options.mqtt_ca
        yield partial(check_mqtt, MqttOptions(options.mqtt, file, topic, ca, options.mqtt_insecure))


def _check_apart(endpoint: _Endpoint, before: Sequence[_Endpoint]) -> None:
    for other in before:
        if endpoint.meets(other):
            raise InputError(
                f"{other.option} and {endpoint.option} have the same port {endpoint.port}; give each its own"
            )


def _endpoints(options: LocalOptions) -> Iterator[_Endpoint]:
    """What will be served."""
    if options.preview is not None:
        yield _Endpoint("--preview", options.preview_host, options.preview, "preview")
    if options.metrics_port is not None:
        yield _Endpoint("--metrics-port", options.metrics_host, options.metrics_port, METRICS)
    if options.mjpeg is not None:
        yield _Endpoint("--mjpeg", options.mjpeg_host, options.mjpeg, MJPEG)
