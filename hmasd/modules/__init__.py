"""The blocks that the networks are built from."""
