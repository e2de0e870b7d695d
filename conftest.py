"""For tests and for notebooks that are tested on their own: no live displays, fixed threads, folders of their own."""

import os
import tempfile

os.environ["TLNB_TESTING"] = "1"
_own = tempfile.TemporaryDirectory(prefix="tlnb-tests-")  # nothing of the user's is read or written
os.environ["TLNB_HOME"], os.environ["TLNB_CACHE"] = f"{_own.name}/home", f"{_own.name}/cache"
