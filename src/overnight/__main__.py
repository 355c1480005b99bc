"""``python -m overnight``, for torchrun -m."""

import sys

from overnight.cli import main

if __name__ == "__main__":
    sys.exit(main())
