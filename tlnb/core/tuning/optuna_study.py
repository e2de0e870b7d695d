"""Open or create Optuna studies in a journal file or a database."""

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

STARTUP_TRIALS = 5  # random trials before the search learns, and before any trial is pruned
RETRY_DELAYS = (0.1, 0.3, 1.0)  # seconds between attempts to open a study


def open_study(
    name: str, place: str, seed: int, epochs: int
) -> tuple[optuna.Study, tuple[str, ...]]:
    """Open a study, or create it; also return notes on repairs of its journal.

    Args:
        place: a file for Optuna's journal, or a database URL.
        epochs: epochs per trial.

    Raises:
        UsageError: Optuna is missing, or the storage cannot be used.
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
        warmup = max(1, epochs // 4)
        study.pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=warmup)
        return study, tuple(filter(None, notes))
    except Exception as error:  # files, databases and their drivers each raise their own
        reason = " ".join(str(error).split())[:100]
        raise UsageError(
            f"--storage {place} cannot be used ({reason}): give a file, or sqlite:///tuning.db"
        ) from None


def imported_optuna() -> Any:
    """Import Optuna and set it to log only warnings.

    Raises:
        UsageError: Optuna is not installed.
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
    check_scores(study.get_trials())  # reads every trial
    return study


def _opened(make: Callable[[], optuna.Study]) -> optuna.Study:
    """Open the study, retrying: several processes may be creating it at the same moment."""
    for wait in RETRY_DELAYS:
        try:
            return make()
        # Each storage raises its own error for what another process did a moment before.
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
    """A sampler that draws some trials at random, then learns from the study."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def beginning_with(values: dict[str, Any], otherwise: Any) -> Any:
    """A sampler for a study's first trial: these values, the rest drawn by another sampler."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # experimental since Optuna 2.4
        return PartialFixedSampler(values, otherwise)
