"""Stops 2 and 3 of the walk: who decides when, and the memory that a round is collected into."""
