"""``python -m fathom_server.gateway``."""

import sys

from fathom_server.gateway.cli import main

if __name__ == "__main__":
    sys.exit(main())
