"""HTTP: metrics, health, and the API that operators and the command line use."""
