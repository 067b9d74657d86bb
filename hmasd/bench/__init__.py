"""Comparisons that can be believed: tasks x algorithms x seeds, run, measured and reported."""
