"""`python -m tersenet`."""

import sys

from tersenet.cli import main

sys.exit(main())
