"""``python -m benchmarks.transactions`` is ``python -m benchmarks.transactions.run``."""

import sys

from benchmarks.transactions.run import main

sys.exit(main())
