"""Devices: who they are, which certificates they have, what they may do. Knows no MQTT server and no HTTP."""
