"""The command line. A command is one function in the file of its feature; errors become one line and an exit code."""

import os
import sys

import typer

from broker_plugins.engine.errors import EngineError
from broker_plugins.errors import BrokerPluginsError
from fleet.errors import FleetError
from fleetgate.cli import (
    audit,
    authority,
    backup,
    certificate,
    claim,
    dataset,
    device,
    device_type,
    doctor,
    enrolment,
    export,
    group,
    ingest,
    lifecycle,
    mqtt,
    operator,
    policy,
    provision,
    quarantine,
    quota,
    serve,
    simulate,
    sql,
    store,
    stream,
    telemetry,
    template,
    top,
)
from fleetgate.cli.target import CommandError, version_and_folder
from fleetgate.errors import ArgumentError, SettingsError
from ingester.errors import IngestError

_INTERRUPTED = 130
_OURS = (CommandError, FleetError, IngestError, EngineError, BrokerPluginsError, SettingsError, ArgumentError)

app = typer.Typer(
    name="fleetgate",
    help="A device gateway: MQTT over TLS with certificate identity, durable telemetry, per-device metrics.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    callback=version_and_folder,
)
for feature in (
    serve,
    device,
    certificate,
    device_type,
    group,
    policy,
    quota,
    lifecycle,
    provision,
    template,
    claim,
    enrolment,
    authority,
    stream,
    store,
    telemetry,
    top,
    sql,
    dataset,
    export,
    quarantine,
    mqtt,
    ingest,
    simulate,
    operator,
    audit,
    backup,
    doctor,
):
    feature.register(app)


def main() -> None:
    """Run the command; the console script."""
    os.umask(0o077)  # what this program writes is its owner's, unless it says otherwise
    try:
        app()
    except _OURS as error:
        sys.exit(f"fleetgate: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"fleetgate: {where}{error.strerror or error}")
    except UnicodeEncodeError as error:  # an argument of bytes that are no text
        sys.exit(f"fleetgate: {str(error.object)[:200]!r}: not UTF-8")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
