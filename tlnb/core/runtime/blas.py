"""How many threads NumPy's and SciPy's linear algebra takes."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")
_LOCK = threading.RLock()  # the limit is the process's


def on_one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Call the function with one thread for NumPy's and SciPy's linear algebra.

    The matrices of a probe are too small for more, and OpenBLAS's threads wait for each other by
    spinning: where other programs want the cores, a fit with two took five times as long as with
    one. torch's threads stay as they are.
    """

    @functools.wraps(function)
    def called(*arguments: P.args, **options: P.kwargs) -> R:
        with _LOCK, _libraries().limit(limits=1, user_api="blas"):
            return function(*arguments, **options)

    return called


@functools.cache
def _libraries() -> ThreadpoolController:
    import sklearn.linear_model  # noqa: F401  loads the libraries that are to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
