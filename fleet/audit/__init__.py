"""The audit log: who did what to whom, from where, before and after, in entries that nobody can change unnoticed."""
