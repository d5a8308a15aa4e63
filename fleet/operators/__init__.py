"""Operators: the people and programs that run the fleet, what they prove themselves by, and what they may do."""
