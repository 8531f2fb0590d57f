"""``python -m quorate``: the same as the command ``quorate``."""

import sys

from quorate.cli.main import main

sys.exit(main())
