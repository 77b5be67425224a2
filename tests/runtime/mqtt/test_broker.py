"""A run and a real broker: what it has been told, when the run ends, and when the broker does."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from paho.mqtt.client import topic_matches_sub
from PIL import Image

from runtime.mqtt import MqttOptions, ask_broker, publishing
from runtime.mqtt.topics import Topics
from runtime.objects.tracking import TrackState
from stages.address import Address
from tests.runtime.test_service import long_film
from tests.support.documents import Document
from tests.support.edge import write_photo
from tests.support.keys import keys_for
from tests.support.live import FakeLive
from tests.support.mosquitto import PASSWORD, USER, Mosquitto, Reader, mosquitto, reader
from tests.support.processes import MODULE

pytestmark = [pytest.mark.anyio, pytest.mark.mosquitto]
CUP = "pedsam/objects/cup"
PATIENCE_S = 60
ENDED = "it ended the connection; was it stopped, or has another run the same --mqtt-topic?"


@dataclass
class Publishing:
    """A pretended run that tells a broker; `told` is what it says of that."""

    live: FakeLive
    told: list[str] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, text: str) -> None:
        with self._news:
            self.told.append(text)
            self._news.notify_all()

    async def until_told(self, words: str) -> str:
        """The first sentence with these words."""

        def wait() -> str:
            with self._news:
                assert self._news.wait_for(self._found(words), PATIENCE_S), self.told
                return next(text for text in self.told if re.search(words, text))

        return await to_thread.run_sync(wait)

    def _found(self, words: str) -> Callable[[], bool]:
        return lambda: any(re.search(words, text) for text in self.told)


@asynccontextmanager
async def told(address: str, **more: Any) -> AsyncIterator[Publishing]:
    """A run with a cup, frame after frame, that tells the broker at this address."""
    live = FakeLive()
    await live.prompt_at(300, 200)
    live.rename("object 1", "cup")
    run = Publishing(live)
    options = MqttOptions(Address(address), **more)
    async with anyio.create_task_group() as tasks, publishing(live, options, run.tell):
        tasks.start_soon(live.run)
        try:
            yield run
        finally:
            tasks.cancel_scope.cancel()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker") as started:
        yield started


@pytest.fixture
def everything(broker: Mosquitto) -> Iterator[Reader]:
    with reader(broker) as read:
        yield read


async def until(read: Reader, topic: str, **values: Any) -> None:
    """Waits until the last message there is JSON with these values."""

    def holds(newest: dict[str, bytes]) -> bool:
        said = json.loads(newest.get(topic) or b"{}")
        return all(said.get(key) == value for key, value in values.items())

    await to_thread.run_sync(read.until, holds)


async def kept_by(broker: Mosquitto) -> dict[str, bytes]:
    """What somebody gets who comes only now."""

    def ask() -> dict[str, bytes]:
        with reader(broker) as late:
            late.client.publish("asked", b"x", qos=1)  # what is kept has come before it
            late.until(lambda newest: "asked" in newest)
            return dict(late.retained)

    return await to_thread.run_sync(ask)


async def test_objects_are_announced_told_renamed_and_taken_back(
    broker: Mosquitto, everything: Reader
) -> None:
    async with told(broker.url) as run:
        await until(everything, CUP, present=True, state="tracked")
        assert everything.newest["pedsam/status"] == b"online"
        area = 100 * 3.1416 * 40 * 40 / (640 * 360)
        assert everything.json(CUP)["area"] == pytest.approx(area, rel=0.02)
        assert everything.json("homeassistant/binary_sensor/pedsam/cup_presence/config")["state_topic"] == CUP
        run.live.objects["cup"].state = TrackState.LOST
        await until(everything, CUP, present=False, state="lost")
        run.live.rename("cup", "Große Tasse/+#")
        await to_thread.run_sync(
            everything.until, lambda newest: sum("gro_e_tasse" in topic for topic in newest) == 5
        )
        assert everything.newest[CUP] == b""
        kept = await kept_by(broker)
        assert not [topic for topic in kept if "cup" in topic]
        (name,) = run.live.objects
        run.live.remove(name)
        await to_thread.run_sync(
            everything.until, lambda newest: not any(newest[topic] for topic in newest if "tasse" in topic)
        )
    kept = await kept_by(broker)
    assert kept.pop("pedsam/status") == b"offline"
    assert sorted(kept) == [
        "homeassistant/button/pedsam/snapshot_button/config",
        "homeassistant/image/pedsam/snapshot_image/config",
    ]


async def test_a_picture_is_published_when_somebody_asks_and_not_kept(
    broker: Mosquitto, everything: Reader
) -> None:
    async with told(broker.url):
        await until(everything, CUP, present=True)
        assert "pedsam/snapshot" not in everything.newest
        for _ in range(3):  # at once: one picture for all, and one more at most
            everything.client.publish("pedsam/snapshot/get", b"PRESS", qos=1)
        await to_thread.run_sync(everything.until, lambda newest: "pedsam/snapshot" in newest)
        with Image.open(BytesIO(everything.newest["pedsam/snapshot"])) as picture:
            assert (picture.format, picture.size) == ("JPEG", (640, 360))
        assert "pedsam/snapshot" not in await kept_by(broker)
    assert sum(topic == "pedsam/snapshot" for topic, _ in everything.messages) <= 2


async def test_nobody_gets_a_picture_where_that_is_off(broker: Mosquitto, everything: Reader) -> None:
    async with told(broker.url, snapshots=False):
        await until(everything, CUP, present=True)
        everything.client.publish("pedsam/snapshot/get", b"PRESS", qos=1)
        everything.client.publish("mark", b"x", qos=1)
        await to_thread.run_sync(everything.until, lambda newest: "mark" in newest)
        await anyio.sleep(0.5)
    assert not [topic for topic in everything.newest if topic.endswith(("snapshot", "button/config"))]


async def test_a_broker_that_comes_late_or_starts_again_is_told_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    broker = Mosquitto(tmp_path / "broker")
    async with told(broker.url) as run:
        sentence = await run.until_told("cannot be reached")
        assert sentence == f"broker {broker.url}: it cannot be reached (Connection refused); trying again"
        for _ in range(2):
            run.told.clear()
            await to_thread.run_sync(broker.start)
            try:
                await run.until_told("connected")
                with reader(broker) as read:
                    await until(read, CUP, present=True)
                    await to_thread.run_sync(
                        read.until, lambda newest: sum(topic.endswith("/config") for topic in newest) == 6
                    )
            finally:
                broker.stop()
            assert await run.until_told("it ended") == f"broker {broker.url}: {ENDED}; trying again"
            with anyio.fail_after(PATIENCE_S):  # frames go on meanwhile
                await run.live.frames.after(run.live.frames.version + 3)


async def test_two_runs_with_one_topic_are_told_what_it_may_be(broker: Mosquitto) -> None:
    async with told(broker.url) as one:
        await one.until_told("connected")
        async with told(broker.url) as other:
            await other.until_told("connected")
            assert await one.until_told("it ended") == f"broker {broker.url}: {ENDED}; trying again"
            await other.until_told("it ended")


async def test_a_request_that_a_broker_keeps_asks_for_nothing(broker: Mosquitto, everything: Reader) -> None:
    everything.client.publish("pedsam/snapshot/get", b"PRESS", qos=1, retain=True).wait_for_publish(
        PATIENCE_S
    )
    async with told(broker.url):
        await until(everything, CUP, present=True)
        await anyio.sleep(0.5)
    assert "pedsam/snapshot" not in everything.newest


async def test_what_an_earlier_run_left_is_taken_back(broker: Mosquitto, everything: Reader) -> None:
    left = ("pedsam/objects/old", "homeassistant/sensor/pedsam/old_area/config")
    others = ("pedsam/door/objects/old", "homeassistant/sensor/pedsam_door/old_area/config")
    for topic in (*left, *others):
        everything.client.publish(topic, b"{}", qos=1, retain=True).wait_for_publish(PATIENCE_S)
    async with told(broker.url):
        await to_thread.run_sync(everything.until, lambda newest: not any(newest[topic] for topic in left))
    kept = await kept_by(broker)
    assert not set(left) & set(kept)
    assert set(others) <= set(kept)


async def test_a_user_has_a_password_and_a_wrong_one_is_told_without_it(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(f"{PASSWORD}\n")
    wrong.write_text("other-s3cret")
    with mosquitto(tmp_path / "broker", users=True) as broker:
        with reader(broker) as read:
            async with told(broker.url, password_file=right) as run:
                await until(read, CUP, present=True)
                asked = MqttOptions(Address(broker.url), password_file=right)
                answer = await to_thread.run_sync(ask_broker, asked)  # which disturbs no run
                assert answer.welcome
                assert answer.sentence == f"broker mqtt://127.0.0.1:{broker.port}: it accepts the connection"
                await run.live.frames.after(run.live.frames.version + 10)
                assert run.told == [f"broker mqtt://127.0.0.1:{broker.port}: connected"]
            async with told(broker.url.replace(USER, f"{USER}:{PASSWORD}")) as run:
                await run.until_told("connected")
        given: list[dict[str, Any]] = [{"password_file": wrong}, {}]
        for more in given:
            async with told(broker.url, **more) as run:
                sentence = await run.until_told("refuses")
            shown = f"mqtt://127.0.0.1:{broker.port}"
            assert sentence == (
                f"broker {shown}: it refuses the user or the password (Not authorized); check --mqtt and "
                "--mqtt-password-file; trying again"
            )
            answer = await to_thread.run_sync(ask_broker, MqttOptions(Address(broker.url), **more))
            assert not answer.welcome
            assert sentence == f"{answer.sentence}; trying again"


# paho-mqtt leaves the socket of a TLS handshake that failed to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
async def test_tls_with_the_right_authority_and_what_is_told_with_another(tmp_path: Path) -> None:
    keys_for(tmp_path / "other")
    with mosquitto(tmp_path / "broker", tls=True) as broker:
        with reader(broker) as read:
            async with told(broker.url, ca=broker.ca):
                await until(read, CUP, present=True)
        for more, words in (
            ({"ca": tmp_path / "other/edge/a/ca.pem"}, r"its certificate is not trusted \(.*by --mqtt-ca"),
            ({}, r"its certificate is not trusted \(.*by --mqtt-ca"),
        ):
            async with told(broker.url, **more) as run:
                await run.until_told(words)
        async with told(broker.url.replace("127.0.0.1", "localhost"), ca=broker.ca) as run:
            await run.until_told(r"for another name \(.*\); give that name in --mqtt")
        async with told(broker.url.replace("mqtts", "mqtt")) as run:
            await run.until_told("it ended the connection before it answered; does it want TLS, mqtts://")
    with mosquitto(tmp_path / "plain") as broker:
        async with told(broker.url.replace("mqtt:", "mqtts:")) as run:
            await run.until_told("speaks no TLS that this machine takes|it does not answer|cannot be reached")


async def test_presence_comes_with_its_frame_and_area_once_a_second(
    broker: Mosquitto, everything: Reader
) -> None:
    async with told(broker.url) as run:
        await until(everything, CUP, present=True)
        started_s = time.monotonic()
        for number in range(30):  # the disc grows with every frame
            run.live.objects["cup"].box = (0.0, 0.0, 40.0 + 4 * number, 80.0)
            await anyio.sleep(0.03)
        said = [payload for topic, payload in everything.messages if topic == CUP]
        assert len(said) <= time.monotonic() - started_s + 4  # unknown, found, and one more at both ends
        for state in (TrackState.LOST, TrackState.TRACKED):
            run.live.objects["cup"].state = state
            await until(everything, CUP, present=state is TrackState.TRACKED)


async def test_a_run_that_is_killed_is_offline_by_its_last_will(
    broker: Mosquitto, everything: Reader, tmp_path: Path
) -> None:
    film = long_film(tmp_path / "film.mp4")
    line = [*MODULE, "run", "--source", film, "--realtime", "--box", "40,40,200,140", "--mqtt", broker.url]
    async with await anyio.open_process(list(map(str, line)), stdout=subprocess.DEVNULL) as process:
        try:
            await until(everything, "pedsam/objects/1", present=True)
            assert everything.newest["pedsam/status"] == b"online"
            process.send_signal(signal.SIGKILL)
            await to_thread.run_sync(everything.until, lambda newest: newest["pedsam/status"] == b"offline")
        finally:
            if process.returncode is None:
                process.kill()
    assert (await kept_by(broker))["pedsam/status"] == b"offline"


async def test_a_run_of_one_picture_is_told_too(broker: Mosquitto, tmp_path: Path) -> None:
    picture = write_photo(tmp_path / "cup.png")
    line = [*MODULE, "run", "--source", picture, "--box", "150,60,450,300", "--mqtt", broker.url]
    done = await anyio.run_process(list(map(str, [*line, "--out", tmp_path / "out"])))
    assert f"MQTT to {broker.url}, topic pedsam, node pedsam\n" in done.stdout.decode()
    kept = await kept_by(broker)
    assert kept["pedsam/status"] == b"offline"
    assert json.loads(kept["pedsam/objects/1"])["present"] is True


async def test_two_runs_with_topics_of_their_own_do_not_meet(broker: Mosquitto, everything: Reader) -> None:
    async with told(broker.url, topic="pedsam/door"), told(broker.url, topic="pedsam/yard"):
        for place in ("door", "yard"):
            await until(everything, f"pedsam/{place}/objects/cup", present=True)
        await anyio.sleep(0.3)
        assert everything.newest["pedsam/door/status"] == everything.newest["pedsam/yard/status"] == b"online"
    kept = await kept_by(broker)
    ids = [json.loads(each)["unique_id"] for topic, each in kept.items() if topic.endswith("/config")]
    assert len(ids) == len(set(ids)) == 12


async def test_the_page_says_how_all_of_one_topic_and_nothing_else_is_taken_back(broker: Mosquitto) -> None:
    page = Document.read("docs/home-systems.md").text
    (line,) = re.findall(r"^mosquitto_sub .*--remove-retained.*$", page, re.MULTILINE)
    words = shlex.split(line)
    filters = [word for option, word in pairwise(words) if option == "-t"]
    topics = ("pedsam", "pedsam/door", "pedsam/yard")
    for topic in topics:
        async with told(broker.url, topic=topic) as run:
            await run.until_told("connected")
            await run.live.frames.after(run.live.frames.version + 3)
    kept = await kept_by(broker)
    assert f"node {Topics('pedsam/door').node}`" in page
    for topic in topics:
        named = [each.replace("TOPIC", topic).replace("NODE", Topics(topic).node) for each in filters]
        found = {each for each in kept if any(topic_matches_sub(name, each) for name in named)}
        assert found == {each for each, text in kept.items() if belongs(each, text, topic)}
        assert len(found) == 8  # its status, the cup, the cup's entities and those of snapshots


def belongs(topic: str, text: bytes, root: str) -> bool:
    """Whether a message that a broker keeps is one of the run with this topic."""
    if topic.endswith("/config"):
        return bool(json.loads(text)["availability_topic"] == f"{root}/status")
    return topic in (f"{root}/status", f"{root}/objects/cup")
