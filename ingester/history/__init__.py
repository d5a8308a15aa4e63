"""The history: Parquet files, sorted by device and time, that the journal is sealed into. The extra `analytics`."""
