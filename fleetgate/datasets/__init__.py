"""Datasets: named questions in SQL, asked on a schedule, whose results are kept and delivered."""

from fleetgate.datasets.model import Dataset, Definition, Version
from fleetgate.datasets.service import Datasets

__all__ = ["Dataset", "Datasets", "Definition", "Version"]
