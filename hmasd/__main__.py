"""`python -m hmasd COMMAND ...` is `hmasd COMMAND ...`."""

import sys

from hmasd.commands import main

if __name__ == "__main__":
    sys.exit(main())
