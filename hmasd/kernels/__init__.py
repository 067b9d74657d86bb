"""Fast paths of single operations, each with its eager twin, and the one switch for all of them."""

from hmasd.kernels.build import set_fast, status

__all__ = ["set_fast", "status"]
