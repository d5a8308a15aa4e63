"""Read-only SQL over journal, history and registry, in a process of its own. Needs the extra `analytics`."""
