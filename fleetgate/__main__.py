"""`python -m fleetgate`."""

from fleetgate.cli import main

main()
