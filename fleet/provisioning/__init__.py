"""Provisioning: how devices get into the fleet."""
