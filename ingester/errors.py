"""What can go wrong with telemetry, by whose fault it is and whether to try again."""


class IngestError(Exception):
    """Base of every error the ingester raises."""


class StoreError(IngestError):
    """Base of what a store raises."""


class StoreUnavailable(StoreError):  # noqa: N818 - the name says what is the matter, as the style guide asks
    """The store can't take anything now (locked, disk full, I/O error): nothing was written, try again."""


class StoreRejected(StoreError):  # noqa: N818
    """The store refuses this very data and always will: nothing was written, take the bad row out."""


class StoreTooNew(StoreError):  # noqa: N818
    """The store's files were written by a newer version of this program."""


class QueryError(IngestError):
    """A query asks for something that can't be: the message names the argument."""


class SourceError(IngestError):
    """A source of messages is configured in a way that can't work: the message names the setting."""
