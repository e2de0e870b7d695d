"""Small networks of uncommon but real kinds: what they do is not all in the operations that tracing sees.

`NETWORKS` holds a maker for each by name. All take images of 32 pixels and give five scores.
"""

from __future__ import annotations

import tests.core.training.uncommon_hooks
import tests.core.training.uncommon_state  # noqa: F401 - both add to the list
from tests.core.training.uncommon_base import NETWORKS, Net

__all__ = ["NETWORKS", "Net"]
