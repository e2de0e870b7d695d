"""For notebooks that are tested on their own: no live displays, fixed threads."""

import os

os.environ["TLNB_TESTING"] = "1"
