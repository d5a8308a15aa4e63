"""Names that a device may choose and that some part cannot take as they are; and a strategy for more of them."""

from hypothesis import strategies as st

NAMES = (
    "", " ", "a b", "\0", "a\0b", "\0\0", "a\nb", "a\r\nb", "\t", "\x1b[31m", "\x7f", "\u202e", "a\u200db", "\ufeff",
    "Temp", "temp", "TEMP", "temp_2", "\u00df", "ss", "SS", "\u0130", "i\u0307", "\u212a", "k", "K", "\u00e9",
    "e\u0301", "\u6e29\u5ea6", "\U0001f600", "device", "Device", "stream", "time", "Time", "received", "position",
    "device_time", "marks", "more", "MORE", "payload", "order", "level", "key", "value", "type", "json", "rowid",
    "more_", "entry", "field", "text", "ts2", "part_0", "part_journal", "part_nothing", "readings", "messages",
    "devices", "devices_now", "rollups", "chosen", "streams", "main", "main.x", "select", "from", "null", "table",
    "information_schema", "sqlite_master", "__class__", "__filename", "__fragment_index", "__index_level_0__",
    '"', '""', 'a"b', "'", "it's", "''", "\\", "a\\b", "\\u0000", "\\0", '\\"', "`", "[", "]", "a[0]", "a]b", "(", ")",
    "{", "}", "{device}", "{{", "a.b", ".", "..", ".a", "a.", "/", "//", "a/b", "../x", "/etc/passwd", "C:\\x", "CON",
    "%", "%s", "%2F", "%00", "%(x)s", "$", "$1", "$since", "$.a", "*", "a*", "?", "#", "-", "--", "-- x", "/* x */",
    ";", "; DROP VIEW readings", ",", "a,b", "=", "=cmd", "+1", "@x", "|", "~", "~0", "~1", "a~b", "0", "1e5", "-1",
    "true", "day=1", "stream=x", "x" * 255, "x" * 256, "x" * 65_000, "\u00e9" * 40,
)  # fmt: skip
names = st.sampled_from(NAMES) | st.text(max_size=12) | st.text(st.sampled_from("aA\0\"'\\.*_2~/$ "), max_size=5)
