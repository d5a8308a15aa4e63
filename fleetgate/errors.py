"""What goes wrong in the program itself."""


class SettingsError(Exception):
    """The settings can't be used: names the key, and the near miss of a wrong one."""


class ArgumentError(Exception):
    """An argument of a command or an API call can't be used: names it."""


class ForbiddenError(Exception):
    """Whoever asks may not have that; says what would be needed."""


class OidcError(Exception):
    """A login by OpenID Connect that did not come to its end, and why."""


class OidcUnavailableError(OidcError):
    """The provider can't be asked now."""
