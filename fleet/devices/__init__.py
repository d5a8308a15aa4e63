"""Actions on devices, the same for HTTP, MQTT, commands and rules."""

from fleet.devices.service import Devices, Kept

__all__ = ["Devices", "Kept"]
