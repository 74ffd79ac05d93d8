"""`python -m dpolicy` is `dpolicy`."""

import sys

from dpolicy.cli import main

sys.exit(main())
