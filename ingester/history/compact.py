"""Many small files to few larger ones. Blocks: runs in the worker process."""

from ingester.history import files
from ingester.history.columns import readings_of
from ingester.history.duplicates import resolve_readings
from ingester.history.model import Merge, SealedFile
from ingester.history.seal import write_partitions


def merge(job: Merge) -> list[SealedFile]:
    """The new files. What has one time stays in the order of sealing. Raises DamagedError."""
    readings = [
        reading
        for file in job.files
        for table in files.read_all(job.folder, file)
        for reading in readings_of(table, file.stream)
    ]
    return write_partitions(job.folder, job.name, resolve_readings(readings, job.rules))
