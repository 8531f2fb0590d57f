"""``python -m benchmarks.zookeeper`` is ``python -m benchmarks.zookeeper.run``."""

import sys

from benchmarks.zookeeper.run import main

sys.exit(main())
