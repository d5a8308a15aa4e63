"""Topics to device and stream."""

import asyncio
from pathlib import Path

import pytest

from ingester.errors import SourceError
from ingester.source_mqtt import SourceConfig
from ingester.topics import topic_map


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("devices/d1/telemetry", ("d1", "default")),
        ("devices/d1/telemetry/engine", ("d1", "engine")),
        ("devices/d1/telemetry/engine/oil/temp", ("d1", "engine/oil/temp")),
        ("devices/d1/telemetry/../x", ("d1", "../x")),
        ("devices/d1/telemetry/a\nb", ("d1", "a\nb")),
        ("devices/d1/telemetry/", None),
        ("devices/d1/telemetryx", None),
        ("devices//telemetry", None),
        ("devices/" + "x" * 129 + "/telemetry", None),
        ("devices/d1/shadow", None),
        ("x/devices/d1/telemetry", None),
        ("", None),
    ],
)
def test_native_topics(topic: str, expected: tuple[str, str] | None):
    """The native dialect, and nothing beside it."""
    assert topic_map()(topic) == expected


def test_templates_of_others():
    """Names stand where the template says; text in it means itself."""
    match = topic_map(("plant/{device}/{stream}/v1", "a.c/+/{device}", "x/{stream}/{device}"))
    assert match("plant/p1/temp/v1") == ("p1", "temp")
    assert match("plant/p1/temp/more/v1") is None
    assert match("a.c/any/p2") == ("p2", "default")
    assert match("abc/any/p2") is None
    assert match("x/s/d") == ("d", "s")


@pytest.mark.parametrize(
    "template",
    ["plant/{stream}", "a/{device}/{device}", "{device}/{stream}/{stream}", "a{device}", "{device}/#", "{device}/{x}"],
)
def test_templates_that_cannot_be(template: str):
    """A template without one device, or with marks that mean nothing, is refused by name."""
    with pytest.raises(SourceError, match="topic map"):
        topic_map((template,))


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"ca": Path("ca.pem")}, "ca"), ({"certificate": Path("c.pem")}, "certificate"),
        ({"key": Path("k.pem")}, "key"),
        ({"url": "mqtts://h", "key": Path("k.pem")}, "key: needs a certificate"),
        ({"password": "secret"}, "password: needs a user"),
        ({"url": "mqtt://u:p@h", "password": "secret"}, "password: the url"),
        ({"url": "mqtt://h/plant"}, "url"), ({"url": "mqtt://h?qos=1"}, "url"), ({"url": "mqtt://h#x"}, "url"),
        ({"topics": ("a", "b", "a")}, "topics: 'a' is given twice"), ({"templates": ("{device}", "{device}")}, "map: "),
        ({"retained": "never"}, "retained 'never'"),
    ],
)  # fmt: skip
def test_settings_of_a_source_without_effect(given: dict, key: str):
    """Refused with their name; none of the secrets is in the error."""
    with pytest.raises(SourceError, match=f"source {key}") as caught:
        SourceConfig(**{"url": "mqtt://h", **given}).client(asyncio.Queue)
    assert "secret" not in str(caught.value)


async def test_settings_of_a_source():
    """A user with a password, a slash behind the port."""
    assert SourceConfig("mqtt://u@h:1883/", password="x").client(asyncio.Queue)
    assert SourceConfig("mqtt://u:p@h").client(asyncio.Queue)
