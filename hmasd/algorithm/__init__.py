"""Stops 4 to 6 of the walk: rewards, advantages and losses (pure), and the three updaters."""
