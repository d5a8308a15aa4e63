"""Who may publish and subscribe to what. Policies proper come later; today a device has its own branch."""

from fleet.policy.rights import Rights, application_rights, check_filter, device_rights

__all__ = ["Rights", "application_rights", "check_filter", "device_rights"]
