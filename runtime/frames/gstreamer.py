"""Pictures of a Jetson's cameras through GStreamer: decoded and converted in hardware, as text for OpenCV.

Not run on a board; tests run the same chains with stand-ins for NVIDIA's elements.

Every chain ends alike: nvvidconv, in hardware, takes the decoder's or the camera's NV12 from NVIDIA's memory
to BGRx in memory that all can read; it knows no BGR, which OpenCV wants, so videoconvert drops the fourth
byte on the CPU. Nothing here encodes: an Orin Nano has no encoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2

from stages.address import Address
from stages.errors import InputError

_TO_BGR = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_NEWEST = "appsink drop=true max-buffers=1 sync=false"
ARGUS_SOCKET = Path("/tmp/argus_socket")  # noqa: S108  (nvargus-daemon's)
PLUGINS = Path("/usr/lib/aarch64-linux-gnu/gstreamer-1.0")  # where JetPack, and NVIDIA's runtime, put them
OPEN_MS, READ_MS = 15_000, 5_000  # a chain that takes longer has failed
_CSI_SIZE, _CSI_FPS = (720, 1280), 30.0  # a mode that sensors have in common

Size = tuple[int, int]  # (height, width) in pixels


def csi_pipeline(sensor: int, size: Size | None = None, fps: float | None = None) -> str:
    """A camera on the CSI connector, through Argus, which makes colours of the sensor's raw picture."""
    height, width = size or _CSI_SIZE
    wanted = f"width={width},height={height},framerate={round(fps or _CSI_FPS)}/1"
    return f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),{wanted} ! {_TO_BGR} ! {_NEWEST}"


def usb_pipeline(index: int, size: Size | None = None, fps: float | None = None) -> str:
    """A USB camera that gives JPEG, as most do for more than a few frames a second at full size."""
    wanted = ["image/jpeg"]
    if size:
        height, width = size
        wanted += [f"width={width}", f"height={height}"]
    if fps:
        wanted.append(f"framerate={round(fps)}/1")
    decoded = "nvv4l2decoder mjpeg=1"
    return f"v4l2src device=/dev/video{index} ! {','.join(wanted)} ! {decoded} ! {_TO_BGR} ! {_NEWEST}"


def stream_pipeline(address: Address) -> str:
    """A network stream. uridecodebin finds the picture among a camera's pads, sound among them, which a chain
    from rtspsrc does not, and ranks NVIDIA's decoder first on a Jetson.

    Raises InputError for one that could add to the pipeline.
    """
    url = address.secret
    if any(not character.isprintable() or character in '"\\ ' for character in url):
        raise InputError(f"source {address} is no URL; write special characters as %XX")
    return f'uridecodebin uri="{url}" ! {_TO_BGR} ! {_NEWEST}'


@dataclass(frozen=True)
class JetsonVideo:
    """What this machine has for a Jetson's cameras: `gstreamer` in OpenCV, NVIDIA's `plugins` for GStreamer,
    and the `socket` of the daemon that CSI cameras are reached through."""

    jetson: bool
    gstreamer: bool
    plugins: Path = PLUGINS
    socket: Path = ARGUS_SOCKET

    @classmethod
    def here(cls) -> JetsonVideo:
        return cls(Path("/etc/nv_tegra_release").exists(), has_gstreamer())

    @property
    def decodes(self) -> bool:
        """Whether pictures are decoded and converted in hardware."""
        return self._usable and self._has("nvvideo4linux2") and self._has("nvvidconv")

    @property
    def takes_csi(self) -> bool:
        return self._usable and self._has("nvarguscamerasrc") and self._has("nvvidconv")

    @property
    def _usable(self) -> bool:
        return self.jetson and self.gstreamer

    def _has(self, plugin: str) -> bool:
        """Asked before a chain is opened: OpenCV 4.6 waits forever for one whose first element is missing."""
        return (self.plugins / f"libgst{plugin}.so").exists()

    def csi_advice(self, size: Size | None, fps: float | None) -> str:
        """What to do about a CSI camera that cannot be opened. OpenCV is not told why; Argus prints it."""
        if not self.jetson:
            return "csi:// is a camera on a Jetson's CSI connector, and this machine is none"
        if not self.gstreamer:
            return (
                "this OpenCV has no GStreamer, which csi:// needs: take JetPack's (package libopencv-python) "
                "and remove the one of pip: `pip uninstall opencv-python opencv-python-headless`"
            )
        if not self.takes_csi:
            return (
                f"NVIDIA's plugins for GStreamer are not in {self.plugins}: in a container they come with "
                "`--runtime nvidia`, outside with `sudo apt install nvidia-l4t-gstreamer`"
            )
        if not self.socket.exists():
            return (
                f"there is no {self.socket}, so nothing reaches the camera: `sudo systemctl restart "
                "nvargus-daemon`; in a container bind all of /tmp into it (-v /tmp:/tmp), since the socket "
                "is made anew with the daemon"
            )
        return _argus_advice(size, fps)


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with it; the one from PyPI was not."""
    return bool(re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))


def open_pipeline(text: str) -> cv2.VideoCapture | None:
    """An open chain that has given a picture, which is dropped; None for one that does not within OPEN_MS.

    That it opens is not enough: decoders are known to fail at the pictures of some cameras.
    """
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
    capture = cv2.VideoCapture(text, cv2.CAP_GSTREAMER, limits if has_limits(cv2.__version__) else [])
    if capture.isOpened() and capture.read()[0]:
        return capture
    capture.release()
    return None


def has_limits(version: str) -> bool:
    """Whether OpenCV of this version takes time limits for GStreamer; before 4.7 it refuses to open then."""
    major, minor = version.split(".")[:2]
    return (int(major), int(minor)) >= (4, 7)


def _argus_advice(size: Size | None, fps: float | None) -> str:
    height, width = size or _CSI_SIZE
    mode = f"{width} x {height} pixels at {round(fps or _CSI_FPS)} frames/s"
    return (
        "see what Argus prints above. After 'Connecting to nvargus-daemon failed' or 'Failed to create "
        "CaptureSession': `sudo systemctl restart nvargus-daemon`. After 'No cameras available': see that "
        "its cable is in, and set it up with `sudo /opt/nvidia/jetson-io/jetson-io.py`. Else the sensor may "
        f"have no mode of {mode}: `v4l2-ctl --list-formats-ext` lists those for --camera-size and "
        "--camera-fps"
    )
