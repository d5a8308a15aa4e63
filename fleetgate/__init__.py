"""The program: settings, composition, command line, HTTP."""

from importlib.metadata import version

__version__ = version("fleetgate")
