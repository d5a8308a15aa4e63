"""Which device and stream a topic means: a template such as `plant/{device}/{stream}`. Pure."""

import re
from collections.abc import Callable

from ingester.errors import SourceError

DEFAULT_STREAM = "default"
MAX_DEVICE_LENGTH = 128
NATIVE_TEMPLATES = ("devices/{device}/telemetry", "devices/{device}/telemetry/{stream}")
NATIVE_FILTERS = ("devices/+/telemetry", "devices/+/telemetry/#")

TopicMap = Callable[[str], "tuple[str, str] | None"]
"""Topic name -> (device, stream), or None when the topic means neither."""


def native_topic(device: str, stream: str) -> str:
    """Topic by which a device publishes to a stream."""
    return f"devices/{device}/telemetry" + (f"/{stream}" if stream != DEFAULT_STREAM else "")


def topic_map(templates: tuple[str, ...] = NATIVE_TEMPLATES) -> TopicMap:
    """Compile templates; the first that matches decides.

    `{device}` stands for one topic level, `{stream}` for one, or for one or more when it comes last; `+` for any level.
    Raises SourceError when a template lacks `{device}`, repeats a name, or mixes a name with text in one level.
    """
    patterns = [_compile(template) for template in templates]

    def match(topic: str) -> tuple[str, str] | None:
        for pattern in patterns:
            if found := pattern.fullmatch(topic):
                names = found.groupdict()
                return names["device"], names.get("stream") or DEFAULT_STREAM
        return None

    return match


def _compile(template: str) -> re.Pattern[str]:
    levels = template.split("/")
    if levels.count("{device}") != 1 or levels.count("{stream}") > 1:
        raise SourceError(f"topic map {template!r}: needs {{device}} once, and {{stream}} at most once")
    parts = []
    for position, level in enumerate(levels):
        if level == "{device}":
            parts.append(f"(?P<device>[^/]{{1,{MAX_DEVICE_LENGTH}}})")
        elif level == "{stream}":
            parts.append("(?P<stream>.+)" if position == len(levels) - 1 else "(?P<stream>[^/]+)")
        elif level == "+":
            parts.append("[^/]*")
        elif "{" in level or "}" in level or "+" in level or "#" in level:
            raise SourceError(f"topic map {template!r}: level {level!r} is neither text, +, {{device}} nor {{stream}}")
        else:
            parts.append(re.escape(level))
    return re.compile("/".join(parts), re.DOTALL)
