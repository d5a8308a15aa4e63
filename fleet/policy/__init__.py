"""Who may publish and subscribe to what: devices by policies, applications by the filters they were given."""
