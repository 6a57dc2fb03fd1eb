"""``python -m tinkex`` and the ``tinkex`` console script."""

import sys

from tinkex.cli.startup import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
