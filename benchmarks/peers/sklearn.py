"""scikit-learn's logistic regression on the frozen network's features."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.laps import Outcome
from benchmarks.peers.loading import Loader, loaders
from benchmarks.work import Task
from tlnb.core.training.freezing import layer_of

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # C: the inverse of the L2 penalty
FOLDS = 5


def run(task: Task) -> Outcome:
    """Features once, then cross-validation over the penalty and a last fit on all labels."""
    task.laps.start()
    train, test = loaders(task)
    head = layer_of(task.network, task.trained[-1])
    probe = fitted(*_features(task, train, head))
    seen, labels = _features(task, test, head)
    return task.laps.outcome(float((probe.predict(seen) == labels).mean()))


def fitted(features: np.ndarray, labels: np.ndarray, standardise: bool = False) -> GridSearchCV:
    """Logistic regression on features `(N, D)`; C by cross-validation, at most five folds."""
    regression = LogisticRegression(max_iter=2000)
    model = make_pipeline(StandardScaler(), regression) if standardise else regression
    name = "logisticregression__C" if standardise else "C"
    folds = min(FOLDS, int(np.bincount(labels).min()))
    return GridSearchCV(model, {name: STRENGTHS}, cv=folds).fit(features, labels)


def reaching(network: nn.Module, head: nn.Module, images: Tensor) -> Tensor:
    """What reaches a layer where the network sees these images: `(n, D)`, averaged over places.

    SqueezeNet's output layer is a 1×1 convolution, whose scores are averaged afterwards.
    """
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(_pooled(inputs[0])))
    with torch.no_grad():
        network.eval()(images)
    handle.remove()
    return seen[0].float().cpu()


def _pooled(features: Tensor) -> Tensor:
    return features.flatten(2).mean(2) if features.ndim > 2 else features


def _features(task: Task, loader: Loader, head: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(reaching(task.network, head, images), labels.cpu()) for images, labels in loader]
    features, labels = (torch.cat(each).numpy() for each in zip(*pairs, strict=True))
    return features, labels
