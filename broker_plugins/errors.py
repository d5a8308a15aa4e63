"""Errors of this package outside the engine."""


class BrokerPluginsError(Exception):
    """Base of them."""


class BrokerStartError(BrokerPluginsError):
    """The broker can't listen."""


class PluginRefusedError(BrokerPluginsError):
    """A plugin that can't be loaded here."""
