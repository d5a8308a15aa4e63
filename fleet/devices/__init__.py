"""What is done with devices, each once: whichever door it is asked at."""

from fleet.devices.service import Devices, Kept

__all__ = ["Devices", "Kept"]
