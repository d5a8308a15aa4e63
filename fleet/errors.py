"""What can go wrong around devices, by whose fault it is."""

from ingester.clock import clock_problem, is_believed, now_us


class FleetError(Exception):
    """Base of every error of this package; the message is one clear line."""


class InvalidNameError(FleetError):
    """A name that a device or application can't have."""


class ConflictError(FleetError):
    """What is asked for contradicts what is there."""


class KeyInUseError(ConflictError):
    """A key that somebody else has a certificate for."""


class NotFoundError(FleetError):
    """Nothing of that name."""


class InvalidCertificateError(FleetError):
    """A certificate or signing request that can't be used, and why."""


class StateError(FleetError):
    """The state folder can't be used."""


class StateInUseError(StateError):
    """Another process owns the state folder."""


class ClockError(FleetError):
    """The clock can't be right: what is asked for would be valid at a wrong time."""

    def __init__(self, now: int) -> None:
        super().__init__(f"{clock_problem(now)}: nothing that expires can be made; set the clock")


def ends_in(days: float) -> int:
    """When something ends that is made now and valid for so many days. Raises ClockError."""
    now = now_us()
    if not is_believed(now):
        raise ClockError(now)
    return now + int(days * 86_400e6)


class RegistryUnavailableError(FleetError):
    """The database of the registry can't be reached or can't write now: nothing was changed, ask again later."""


class UnstorableError(RegistryUnavailableError):
    """The registry's database can't hold a value of what is asked for: trying again does not help."""


class StaleError(ConflictError):
    """What is to be changed was changed by somebody else meanwhile."""
