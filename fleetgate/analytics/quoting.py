"""Names and texts as SQL has them. Pure."""


def quoted_name(name: str) -> str:
    """A name of a column, view or table."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text."""
    return "'" + text.replace("'", "''") + "'"


def quoted_path(key: str) -> str:
    """The path of a key at the top of a JSON object."""
    return quoted_text('$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"')
