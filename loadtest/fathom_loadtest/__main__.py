"""``python -m fathom_loadtest`` is ``fathom-load``."""

import sys

from fathom_loadtest.cli import main

sys.exit(main())
