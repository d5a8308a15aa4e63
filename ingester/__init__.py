"""Telemetry: batch, commit, acknowledge, query, metrics.

Knows devices only as keys and nothing of MQTT servers, certificates or registry; another program could use it alone.
"""
