"""Stop 8 of the walk: the loop that trains, the signals that stop it, evaluation."""
