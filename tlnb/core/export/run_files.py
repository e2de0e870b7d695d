"""Save and restore runs: what a run changed, with everything needed to rebuild its network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from tlnb.core.costs.bill import Bill
from tlnb.core.data.dataset import DataFacts
from tlnb.core.data.request import MOST_CLASSES, check_request
from tlnb.core.data.splits import SPLITS
from tlnb.core.models.calibration import KnownImages, checked
from tlnb.core.models.module_copy import copied_or_shared
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.models.transform import MOST_PIXELS
from tlnb.core.planning.edit import Scopes, build, names_in
from tlnb.core.planning.plan import Edit, Plan
from tlnb.core.planning.safe_modules import is_literal
from tlnb.core.runtime.errors import UsageError, listed, one_line
from tlnb.core.runtime.typed_json import typed
from tlnb.core.training.cache_key import structure
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.checkpoint_check import check_answers, check_state
from tlnb.core.training.freezing import hashes, keeping_statistics, set_modes, state_of
from tlnb.core.training.run import Run
from tlnb.core.training.shared_layers import share_layers

ANSWERS = ("truths", "guesses", "sure", "sure_of_truth")
KNOWN = ("features", "labels", "rows")


def finished(run: Run) -> Checkpoint:
    """The checkpoint of a finished run: the tensors it changed, its test predictions."""
    tensors = {f"last/{k}": t for k, t in state_of(run.network(), tuple(run.moved)).items()}
    answers = run.answers()
    tensors |= {f"answers/{name}": getattr(answers, name) for name in ANSWERS}
    known = run.known_images()
    if known is not None and answers.likeness is not None:
        tensors["answers/likeness"] = answers.likeness
        tensors |= {f"known/{name}": getattr(known, name) for name in KNOWN}
    return Checkpoint(
        epochs=run.epochs,
        best=-1.0,
        best_epoch=run.best_epoch,
        seconds=run.seconds,
        flops=run.flops_by_phase,
        work=run.work,
        steps=0,
        cache=run.cache,
        events=run.events,
        pieces=1,
        wh=run.wh_by_phase,
        code=run._start_code,
        tensors=tensors,
    )


def record_of(about: Mapping[str, Any], plan: Plan) -> Run:
    """The record of a run that has ended, without its network.

    Args:
        plan: what it was to do, whose code has been looked at.

    Raises:
        UsageError: it is damaged, or of another plan.
    """
    run = Run.from_json(about["record"])
    if run.plan != plan:
        raise UsageError(f"the record of run {run.name!r} has another plan: train it again")
    return run


def restored(
    about: Mapping[str, Any],
    saved: Checkpoint,
    model: PretrainedModel,
    plan: Plan,
    scopes: Scopes,
    previous: Run | None,
) -> Run:
    """Restore a finished run, with its network, from its file.

    Args:
        about: the job and record, as JSON values.
        saved: its tensors.
        model: the model it started from.
        plan: its plan, whose code has been checked.
        previous: the run it continued from.

    Raises:
        UsageError: the network is not the one that was trained: other weights or other code.
    """
    run = record_of(about, plan)
    module = (
        copied_or_shared(previous.network())
        if previous
        else build(model, plan.edits, plan.start, run.seed, scopes)
    )
    if previous is None and saved.code:
        _check_code(module, saved.code, run, model.name)
    _fill(module, saved.part("last"), run)
    if hashes(module) != about["hashes"]:
        raise UsageError(
            f"run {run.name!r} was trained from different weights than {model.name} has now: "
            "load those, or train it again"
        )
    share_layers(module, about["hashes"])
    answers = check_answers(saved.part("answers"), run.test_images, len(run.classes))
    return replace(
        run,
        _trained=module.eval(),
        _answers=answers,
        _transform=model.transform,
        _known=_known(saved.part("known")),
        _start_code=saved.code,
    )


def _known(held: Mapping[str, Tensor]) -> KnownImages | None:
    """The images that a run compares new ones with; older files have none."""
    if not held:
        return None
    if held.keys() != set(KNOWN):
        raise ValueError("the known images are incomplete")
    return checked(held["features"], held["labels"], held["rows"])


def _check_code(module: nn.Module, code: str, run: Run, model: str) -> None:
    keeping = keeping_statistics(module, run.plan, run.options)
    set_modes(module, set(run.plan.trained), keeping)  # those in which its training began
    same = structure(module) == code
    module.requires_grad_(True)
    if not same:
        raise UsageError(
            f"run {run.name!r} was trained when {model} had other code or settings: "
            "%tl_load that network, or train it again"
        )


def _fill(module: nn.Module, state: Mapping[str, Tensor], run: Run) -> None:
    try:
        check_state(state, state_of(module, run.moved), module, finite=run.status != "failed")
    except (ValueError, AttributeError) as error:
        reason = one_line(str(error))[:80]
        raise UsageError(
            f"run {run.name!r} changed a different network from the one loaded now ({reason}): "
            "train it again"
        ) from None
    module.load_state_dict(dict(state), strict=False)


def scopes_of(plan: Plan, trust: bool, names: Mapping[str, Any]) -> dict[Edit, Mapping[str, Any]]:
    """The user's names that a plan's edits mention.

    Raises:
        UsageError: untrusted code.
    """
    foreign = [e.code for e in plan.edits if e.code and not is_literal(e.code)]
    if foreign and not trust:
        raise UsageError(
            f"the session holds code that would be run ({listed(foreign, 1)}): "
            "if you trust it, %tl_resume --trust"
        )
    return {
        e: {n: names[n] for n in names_in(e.code) if n in names}
        for e in plan.edits
        if e.code in foreign
    }


def facts_from(values: Mapping[str, Any]) -> DataFacts:
    """Read what is known about a data set from JSON values.

    Raises:
        ValueError: a value of the wrong type, an unknown split, or an amount out of range.
        UsageError: an invalid request.
    """
    facts = typed(DataFacts, dict(values), "the data")
    check_request(facts.request)
    folders = dict(facts.folders)
    if not folders.keys() | facts.splits.keys() <= set(SPLITS) or (
        folders and "train" not in folders
    ):
        raise ValueError("the data have unknown splits")
    if (
        len(facts.classes) > MOST_CLASSES
        or not 1 <= facts.edge <= MOST_PIXELS
        or min(facts.splits.values(), default=0) < 0
    ):
        raise ValueError("the data have an amount that is out of range")
    return facts


def facts_to(facts: DataFacts) -> dict[str, Any]:
    """What is known about a data set, as JSON values."""
    return asdict(facts)


def bill_from(values: Mapping[str, Any]) -> Bill:
    """Read a bill from JSON values."""
    return replace(typed(Bill, dict(values), "the bill"), unpaid=None)
