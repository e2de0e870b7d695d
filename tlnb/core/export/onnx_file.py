"""A trained network as ONNX, in full or half precision, and whether its answers are the same."""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlnb.core.models.calibration import WithLikeness
from tlnb.core.models.pretrained import PretrainedModel, Transform
from tlnb.core.runtime.errors import ModelError, OneLine, UsageError
from tlnb.core.training.raw_inputs import chunk_of
from tlnb.core.training.run import Run

PACKAGES = ("onnx", "onnxscript")
OTHERWISE = "save it as .pt2 or .safetensors instead"
TOLERANCE = 0.01  # of a probability
MOST_IMAGES = 64  # with which answers are compared
SMALLEST = 256  # values of a weight that is worth halving
# Rounding of a half, relative to the largest value of a weight; numbers too small for one lose more
HALF_ERROR = 2.0**-10


@dataclass(frozen=True, kw_only=True)
class Agreement(OneLine):
    """How far two forms of a network agree on images of the data at hand."""

    images: int
    same: int  # with the same most probable class
    difference: float  # the largest of any probability
    by: str  # what computed the second form's answers
    weights: str = "fp32"  # as stored in the file

    @property
    def holds(self) -> bool:
        """Whether all classes are the same, and all probabilities within `TOLERANCE`."""
        return self.same == self.images and self.difference <= TOLERANCE

    def __repr__(self) -> str:
        return (
            f"Agreement: the same class for {self.same} of {self.images} images, "
            f"probabilities within {self.difference:.2g}"
        )


def agreement(expected: Tensor, found: Tensor, by: str, weights: str = "fp32") -> Agreement:
    """Compare two sets of logits `(N, C)`."""
    first, second = expected.float().softmax(1), found.float().softmax(1)
    return Agreement(
        images=len(expected),
        same=int((first.argmax(1) == second.argmax(1)).sum()),
        difference=float((first - second).abs().max()),
        by=by,
        weights=weights,
    )


def onnx_model(module: nn.Module, transform: Transform, name: str) -> Any:
    """Export a network as an `onnx.ModelProto`: `images` (N, 3, size, size) → `scores` (N, C).

    With `WithLikeness` it has a second output, `likeness` (N,).

    Raises:
        ModelError: ONNX cannot express the network.
    """
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                module,
                (transform.example(2),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
                input_names=["images"],
                output_names=["scores", "likeness"][: 1 + isinstance(module, WithLikeness)],
                external_data=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"ONNX cannot express {name} ({_reason(error)}): {OTHERWISE}") from None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide pages of graphs that torch logs and prints where an export fails."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """Why an export failed: the operation that ONNX lacks, or the first line of the cause."""
    cause = str(error.__cause__ or error)
    operation = re.search(r"target=torch\.ops\.([\w.]+?)(?:\.default)?\]", cause)
    if operation:
        return f"it has no operation for {operation[1]}"
    return " ".join(cause.split("\n", 1)[0].split())[:120]


def halved(model: Any) -> Any:
    """The ONNX model with weights stored as fp16 where that is fine enough; it computes in fp32."""
    from onnx import TensorProto, helper, numpy_helper

    half = copy.deepcopy(model)
    casts = []
    for weight in half.graph.initializer:
        if weight.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if _fits_half(values):
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16"))
            casts.append(helper.make_node("Cast", [weight.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *half.graph.node]
    del half.graph.node[:]
    half.graph.node.extend(nodes)
    return half


def _fits_half(values: np.ndarray[Any, Any]) -> bool:
    largest = np.abs(values).max(initial=0)
    if values.size < SMALLEST or not largest <= np.finfo(np.float16).max:
        return False
    error = np.abs(values - values.astype(np.float16).astype(np.float32)).max()
    return bool(error <= largest * HALF_ERROR)


def half_scores(module: nn.Module, batch: Tensor) -> Tensor:
    """Logits of the network with its weights rounded as `halved` rounds them."""
    weights = {
        name: weight.half().float() if _fits_half(weight.detach().numpy()) else weight
        for name, weight in module.named_parameters()
    }
    return _scores(lambda part: torch.func.functional_call(module, weights, (part,)), batch)


def _scores(network: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Logits `(N, C)` for a batch `(N, 3, E, E)`, computed in parts: maps of all take much memory."""
    with torch.no_grad():
        parts = batch.split(chunk_of(batch.shape[-1], on_cpu=True))
        return torch.cat([network(part) for part in parts])


def runtime_scores(content: bytes, batch: Tensor) -> Tensor | None:
    """Logits that ONNX Runtime computes; None where it is not installed.

    Raises:
        ModelError: it does not load the model, e.g. for an operation that it lacks.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    try:
        session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
        scores = [session.run(None, {"images": row})[0] for row in batch.numpy()[:, None]]
    except Exception as error:  # its exceptions share no base class
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run this network ({reason}): "
            f"{OTHERWISE}"
        ) from None
    return torch.from_numpy(np.concatenate(scores))


def _judged(run: Run, module: nn.Module) -> nn.Module:
    """The network, with the likeness that a calibrated run's threshold is compared with."""
    known = run.known_images()
    if run.calibration is None or known is None:
        return module
    return WithLikeness(module, run.calibration.layer, known).eval()


def exported(
    run: Run, model: PretrainedModel, images: Tensor | None, half: bool
) -> tuple[Any, Agreement | None]:
    """A run's network as an `onnx.ModelProto`, and how its answers compare with PyTorch's.

    Args:
        images: uint8 `(N, 3, E, E)` to compare on; without them nothing is known.
        half: store weights as fp16 if the answers on `images` stay the same.

    Raises:
        UsageError: a missing package.
        ModelError: ONNX cannot express the network, or ONNX Runtime cannot run it.
    """
    if not all(importlib.util.find_spec(package) for package in PACKAGES):
        raise UsageError(
            "ONNX needs two more packages: pip install 'tlnb[page]' (onnx, onnxscript)"
        )
    module = run.module()
    proto = onnx_model(_judged(run, module), model.transform, model.name)
    if images is None:
        return proto, None
    batch = model.transform(images.cpu())
    expected = _scores(module, batch)
    if half:
        by_torch = agreement(expected, half_scores(module, batch), "PyTorch", "fp16")
        found = _compared(halved(proto), expected, batch, by_torch) if by_torch.holds else None
        if found is not None and found[1] is not None and found[1].holds:
            return found
    return _compared(proto, expected, batch, None)


def _compared(
    proto: Any, expected: Tensor, batch: Tensor, otherwise: Agreement | None
) -> tuple[Any, Agreement | None]:
    """The model, and how ONNX Runtime's answers compare; `otherwise` where it is not installed."""
    scores = runtime_scores(proto.SerializeToString(), batch)
    if scores is None:
        return proto, otherwise
    weights = otherwise.weights if otherwise else "fp32"
    return proto, agreement(expected, scores, "ONNX Runtime", weights)
