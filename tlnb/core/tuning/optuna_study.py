"""Studies of Optuna: opened or made, in a journal file or a database, with our sampler and pruner."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.runtime.errors import UsageError
from tlnb.core.tuning.study_journal import check_scores, mended, set_aside

if TYPE_CHECKING:
    import optuna

STARTUP = 5  # trials that are drawn at random before the search learns, and before any is pruned
OPENING = (0.1, 0.3, 1.0)  # seconds before a study that could not be opened is tried again


def open_study(
    name: str, place: str, seed: int, epochs: int
) -> tuple[optuna.Study, tuple[str, ...]]:
    """The study, made where there is none, and notes on what became of its journal.

    Args:
        place: a file for Optuna's journal, or a database's URL.
        epochs: of a trial.

    Raises:
        UsageError: no Optuna, or storage that cannot be used.
    """
    optuna = imported_optuna()
    try:
        notes = [mended(place)]
        try:
            study = _study_in(name, place)
        except Exception as error:
            if "://" in place or isinstance(error, OSError):
                raise
            notes.append(set_aside(Path(place).expanduser(), type(error).__name__))
            study = _study_in(name, place)
        study.sampler = sampler(seed + len(study.trials))
        study.pruner = optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=max(1, epochs // 4))
        return study, tuple(filter(None, notes))
    except Exception as error:  # a file, a database, its driver: each raises its own
        reason = " ".join(str(error).split())[:100]
        raise UsageError(
            f"--storage {place} cannot be used ({reason}): give a file, or sqlite:///tuning.db"
        ) from None


def imported_optuna() -> Any:
    """The library, with its warnings alone.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "tuning needs Optuna: pip install 'tlnb[tune]', then restart the kernel"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study_in(name: str, place: str) -> optuna.Study:
    import optuna

    make = partial(
        optuna.create_study,
        storage=_storage(place),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
    )
    study = _opened(make)
    check_scores(study.get_trials())  # all of them can be read
    return study


def _opened(make: Callable[[], optuna.Study]) -> optuna.Study:
    """The study; one that several processes make at the same moment is there at the next look."""
    for wait in OPENING:
        try:
            return make()
        # each storage has its own words for what another process did a moment before
        except Exception:
            time.sleep(wait)
    return make()


def _storage(place: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if "://" in place:
        return place
    path = Path(place).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def sampler(seed: int) -> Any:
    """Draws some trials at random, then learns from those that there are."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=STARTUP)


def beginning_with(values: dict[str, Any], otherwise: Any) -> Any:
    """The sampler of a study's first trial, which has these values; what they leave open is drawn by another sampler."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # it has been that since 2.4
        return PartialFixedSampler(values, otherwise)
