"""Quotas: how much a device may send, what happens when it sends more, and how much it sent."""
