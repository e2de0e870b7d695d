"""tlnb: learn and use transfer learning for image classification in notebooks.

`from tlnb import tl` gives the session; in IPython `%load_ext tlnb` adds the magics.
"""

from __future__ import annotations

from typing import Any

from tlnb.session import Session
from tlnb.session.extensions import EXTENSIONS

__version__ = "0.1.0"
__all__ = ["Session", "__version__", "tl"]

tl = Session()


def load_ipython_extension(ipython: Any) -> None:
    """Called by `%load_ext tlnb`."""
    from tlnb.extension import register

    register(ipython, tl)


def _open_panel(session: Session, name: str | None) -> Any:
    from tlnb.panels import open_panel

    return open_panel(session, name)


def _check_exercise(session: Session, *asked: Any) -> Any:
    from tlnb.course.check_call import check_exercise

    return check_exercise(session, *asked)


EXTENSIONS.open_panel, EXTENSIONS.check_exercise = _open_panel, _check_exercise
