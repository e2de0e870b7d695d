"""tlnb: learn and use transfer learning for image classification in notebooks.

`from tlnb import tl` gives the session; in IPython `%load_ext tlnb` adds the magics.
"""

from __future__ import annotations

from typing import Any

from tlnb.session import Session

__version__ = "0.1.0"
__all__ = ["Session", "__version__", "tl"]

tl = Session()


def load_ipython_extension(ipython: Any) -> None:
    """Called by `%load_ext tlnb`."""
    from tlnb.extension import register

    register(ipython, tl)
