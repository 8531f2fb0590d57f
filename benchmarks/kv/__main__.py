"""``python -m benchmarks.kv`` is ``python -m benchmarks.kv.run``."""

import sys

from benchmarks.kv.run import main

sys.exit(main())
