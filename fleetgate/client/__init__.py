"""A client of the API for programs and notebooks: a method for each endpoint, and the fleet as a DataFrame."""

from fleetgate.client.client import Client
from fleetgate.client.transport import ApiError

__all__ = ["ApiError", "Client"]
