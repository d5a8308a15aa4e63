"""Presence: whether devices are there, and when they were seen last."""

from fleet.presence.presence import Presence

__all__ = ["Presence"]
