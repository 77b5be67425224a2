"""Topics: what people may name them, and what names of objects become in them.

A topic's levels are divided by "/", and "+" and "#" stand for any of them, so a name of an object becomes a
slug of a to z, 0 to 9 and "_". A name that is a slug already stays as it is, unless it ends like a hash; any
other one gets a hash of itself behind what is left of it. So two names never have one slug, whatever other
objects there are, and a name has the same slug in every run.
"""

from __future__ import annotations

import hashlib
import re

from stages.errors import InputError

MAX_TOPIC_BYTES = 200
_HASH = re.compile("(^|_)[0-9a-f]{8}$")
_SLUG = re.compile("[a-z0-9_]{1,60}")
_MOST = 40  # characters of a name in its slug


def slug(name: str) -> str:
    """A name as a part of a topic or of an entity's ID; never the same for two names."""
    if _SLUG.fullmatch(name) and not _HASH.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    kept = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")[:_MOST]
    return f"{kept}_{digest}" if kept else digest


def check_topic(topic: str) -> None:
    """Raise InputError for what cannot be the beginning of a run's topics."""
    problem = _topic_problem(topic)
    if problem is not None:
        raise InputError(f"{problem}; expected one like pedsam or pedsam/door")


def _topic_problem(topic: str) -> str | None:
    if not topic.strip() or not topic.isprintable():
        return "a topic has printable characters"
    if len(topic.encode("utf-8", "replace")) > MAX_TOPIC_BYTES:
        return f"a topic has at most {MAX_TOPIC_BYTES} bytes here"
    if wrong := sorted(set(topic) & set("+#")):
        return f"a topic has no {wrong[0]}, which stands for other topics"
    if topic.startswith("$"):
        return "topics that begin with $ are the broker's own"
    if any(not level for level in topic.split("/")):
        return "a topic begins and ends without /, and has something between two of them"
    return None
