"""``python -m fathom_synth`` is ``fathom-synth``."""

import sys

from fathom_synth.cli import main

sys.exit(main())
