"""``python -m trtbench_lab VERB [options]``: the same as ``trtbench``."""

import sys

from .cli import main

sys.exit(main())
