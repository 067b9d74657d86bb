#!/usr/bin/env python3
"""Train HMASD synchronously and strictly on-policy; `--help` explains every setting."""

import sys

from hmasd.cli import main

if __name__ == "__main__":
    sys.exit(main())
