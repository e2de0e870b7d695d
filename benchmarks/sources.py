"""Measure how well `%tl_advise --models` orders pretrained networks, beside LogME and LEEP.

    python -m benchmarks.sources --features DIR [--targets digits-5 …] [--seeds 5] [--engine]

A target is a data set and a number of labels per class; a seed draws those labels from a small pool.
Every network's features of pool and test images are computed once and kept in DIR. `reached` is the
test accuracy of the engine's own head training on those features (a network that looks them up by
image, so without augmentation); `--engine` compares it with training the networks themselves. The
predictions see the drawn labels only:

* `advice`: the order of `%tl_advise --models`, with what the cards decide
* `probe`: the probability by which `tlnb.core.tuning.sources` orders; `accuracy`: its accuracy
* LogME: You et al., LogME: Practical Assessment of Pre-trained Models, ICML 2021
* LEEP: Nguyen et al., LEEP: A New Measure to Evaluate Transferability, ICML 2020; it needs an old
  output layer, so it is compared on the pretrained networks alone

Kendall's τ compares two orders of the networks. Photos and SqueezeNet come from $TLNB_REAL_DATA.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from benchmarks.table import markdown
from benchmarks.work import WEIGHTS_FILES, real, weights_of
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import Labelled
from tlnb.core.evaluation.embeddings import FeatureExtractor, features_of
from tlnb.core.models import pretrained
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.catalogue import Card
from tlnb.core.tuning.sources import HeldOut, first_of, held_out
from tlnb.session import Session

PRETRAINED = (
    "glyphnet",
    "glyphnet-few",
    "glyphnet-early",
    "glyphnet-glyphs",
    "efficientnet_lite0",
    "squeezenet1_0",
)
RANDOM = ("glyphnet", "efficientnet_lite0")  # a random start of these
RANDOM_START = " at random"
NETWORKS = (*PRETRAINED, *(name + RANDOM_START for name in RANDOM))
TARGETS = (
    "digits-5",
    "digits-10",
    "symbols-5",
    "textures-5",
    "faces-5",
    "faces-10",
    "ants_bees-5",
    "ants_bees-10",
)
POOL, TEST = 12, 160  # images of a class to draw from, and of the test split in all
CLOSE = 0.01  # accuracy within which the advised network counts as the best
WAYS = ("advice", "probe", "accuracy", "LogME", "LEEP")
CHECKED = ["data, labels per class", "network", "looked up", "trained", "as by default"]
BYTE = 256


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A network's features and old probabilities of the pool and the test images, with labels."""

    features: Mapping[str, np.ndarray]
    old: Mapping[str, np.ndarray]  # probabilities of the source's classes
    labels: Mapping[str, np.ndarray]


# ── features, once ────────────────────────────────────────────────────────────────────────────────


def seen_by(network: str, data: str, folder: Path) -> Seen:
    """The features of a network, from a file where they were computed before."""
    file = folder / f"{data} {network}.npz"
    if not file.exists():
        np.savez(file, **_computed(network, opened(data)))
    with np.load(file) as kept:
        parts = {key: kept[key] for key in kept.files}
    of = {
        kind: {split: parts[f"{kind} {split}"] for split in ("train", "test")}
        for kind in ("features", "old", "labels")
    }
    return Seen(**of)


def opened(name: str) -> DataSet:
    """A pool as `train`, and some of the test images."""
    data = Session().data(_source(name), per_class=POOL, **_options(name))
    order = np.random.default_rng(0).permutation(len(data.labels["test"]))[:TEST]
    rows = {"train": torch.arange(len(data.labels["train"])), "test": torch.from_numpy(order)}
    return _part(data, rows)


def _part(data: DataSet, rows: Mapping[str, Tensor]) -> DataSet:
    images = {split: data.images[split][some] for split, some in rows.items()}
    labels = {split: data.labels[split][some] for split, some in rows.items()}
    return replace(data, images=MappingProxyType(images), labels=MappingProxyType(labels))


def _source(name: str) -> str:
    return str((real() or Path()) / name) if name == "ants_bees" else name


def _options(name: str) -> dict[str, int]:
    return {"classes": 10} if name == "symbols" else {}


def _computed(network: str, data: DataSet) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    model = pretrained.load(network.removesuffix(RANDOM_START), _weights(network))
    head = read_anatomy(model.module, model.transform.size).head
    seer = FeatureExtractor(of=network, module=model.module, head=head, transform=model.transform)
    logits: list[Tensor] = []
    handle = model.module.register_forward_hook(lambda _, __, output: logits.append(output))
    parts = {}
    for split, images in data.images.items():
        logits.clear()
        parts[f"features {split}"] = features_of(seer, images).numpy()
        parts[f"old {split}"] = torch.cat(logits).softmax(1).numpy()
        parts[f"labels {split}"] = data.labels[split].numpy()
    handle.remove()
    return parts


def _weights(network: str) -> str:
    if network.endswith(RANDOM_START):
        return "none"
    return weights_of(network) if network in WEIGHTS_FILES else "default"


def drawn(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Rows of the pool: this many of each class."""
    mixed = np.random.default_rng(seed).permutation(len(labels))
    each = [mixed[labels[mixed] == c][:per_class] for c in np.unique(labels)]
    return np.sort(np.concatenate(each))


# ── what is reached ───────────────────────────────────────────────────────────────────────────────


class Lookup(nn.Module):
    """Features by the number that an image holds in its first pixel, and an output layer."""

    def __init__(self, features: np.ndarray, classes: int) -> None:
        super().__init__()
        self.trunk = _Table(features)
        self.head = nn.Linear(features.shape[1], classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class _Table(nn.Module):
    def __init__(self, features: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(features), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        high, low = (images[:, c, 0, 0].mul(BYTE - 1).round().long() for c in (0, 1))
        return self.weight[(high * BYTE + low) % len(self.weight)]


def reached(seen: Seen, rows: np.ndarray, seed: int) -> float:
    """Test accuracy of the engine's head training on these rows of the pool."""
    features = np.concatenate([seen.features["train"][rows], seen.features["test"]])
    labels = {"train": seen.labels["train"][rows], "test": seen.labels["test"]}
    classes = len(np.unique(labels["train"]))
    return _trained(
        _numbered(labels), Lookup(features, classes), seed, mean=(0, 0, 0), std=(1, 1, 1), size=16
    )


def _numbered(labels: Mapping[str, np.ndarray]) -> DataSet:
    """A data set whose images hold their number."""
    any_data = Session().data("digits", per_class=2)
    numbers = np.divmod(np.arange(sum(map(len, labels.values()))), BYTE)
    images = torch.zeros(len(numbers[0]), 3, 16, 16, dtype=torch.uint8)
    for channel, part in enumerate(numbers):
        images[:, channel] = torch.from_numpy(part)[:, None, None]
    split = len(labels["train"])
    return replace(
        any_data,
        classes=tuple(map(str, np.unique(labels["train"]))),
        images=MappingProxyType({"train": images[:split], "test": images[split:]}),
        labels=MappingProxyType({k: torch.from_numpy(v) for k, v in labels.items()}),
    )


def _trained(
    data: DataSet,
    network: nn.Module | str,
    seed: int,
    augment: str | None = "none",
    **given: object,
) -> float:
    session = Session()
    session.commit(replace(session.state, dataset=data))
    session.load(network, **given)
    return session.train(seed=seed, augment=augment).accuracy


# ── what is predicted ─────────────────────────────────────────────────────────────────────────────


def log_me(features: np.ndarray, labels: np.ndarray) -> float:
    """Mean log evidence of the labels per image and class, by MacKay's fixed point (You et al.)."""
    u, s, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    return float(
        np.mean([_evidence(u, s, labels == c, *features.shape) for c in np.unique(labels)])
    )


def _evidence(u: np.ndarray, s: np.ndarray, target: np.ndarray, n: int, d: int) -> float:
    y, sigma = target.astype(np.float64), s**2
    z = (u.T @ y) ** 2
    outside, alpha, beta = float(y @ y - z.sum()), 1.0, 1.0
    for _ in range(50):
        gamma = (beta * sigma / (alpha + beta * sigma)).sum()
        m2 = (beta**2 * sigma * z / (alpha + beta * sigma) ** 2).sum()
        miss = (z * (alpha / (alpha + beta * sigma)) ** 2).sum() + outside
        alpha, beta = gamma / max(m2, 1e-12), (n - gamma) / max(miss, 1e-12)
    logdet = np.log(alpha + beta * sigma).sum() + (d - len(sigma)) * np.log(alpha)
    fit = d * np.log(alpha) + n * np.log(beta) - logdet - beta * miss - alpha * m2
    return float(fit - n * np.log(2 * np.pi)) / (2 * n)


def leep(old: np.ndarray, labels: np.ndarray) -> float:
    """Mean log-likelihood of the labels through the old classes (Nguyen et al.)."""
    one_hot = labels[:, None] == np.unique(labels)
    joint = one_hot.T @ old
    given = joint / np.maximum(joint.sum(0), 1e-12)
    likely = (old @ given.T)[one_hot]
    return float(np.log(np.maximum(likely, 1e-12)).mean())


def _of(seen: Seen, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return seen.features["train"][rows], seen.labels["train"][rows]


def _card(network: str) -> Card:
    """What its card states; nothing of a random start or of weights from a file."""
    cards = {card.name: card for card in pretrained.catalogue().cards}
    known = network in cards and network not in WEIGHTS_FILES
    return cards[network] if known else Card(name=network, family="", source="")


def predictions(seen: Seen, rows: np.ndarray, held: HeldOut) -> dict[str, float]:
    """Scores of a network by what is drawn: higher is better."""
    features, labels = _of(seen, rows)
    return {
        "advice": held.probability,
        "probe": held.probability,
        "accuracy": float(held.right.mean()),
        "LogME": log_me(features, labels),
        "LEEP": leep(seen.old["train"][rows], labels),
    }


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What each network was predicted to reach with one draw of labels, and what it reached."""

    scores: Mapping[str, Mapping[str, float]]  # by way, by network
    reached: Mapping[str, float]


def measured(target: str, seed: int, folder: Path) -> Draw:
    """Predict and train each network with one draw; what was reached is kept in a file."""
    data, _, per_class = target.partition("-")
    seen = {network: seen_by(network, data, folder) for network in NETWORKS}
    rows = drawn(next(iter(seen.values())).labels["train"], int(per_class), seed)
    parts = {network: _of(each, rows) for network, each in seen.items()}
    held = {network: held_out(part, Labelled(y)) for network, (part, y) in parts.items()}
    scores = {network: predictions(each, rows, held[network]) for network, each in seen.items()}
    scores[first_of(held, {network: _card(network) for network in NETWORKS})]["advice"] += 1
    file = folder / f"{target} {seed}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for network in (n for n in NETWORKS if n not in known):
        known[network] = reached(seen[network], rows, seed)
    file.write_text(json.dumps(known))
    return Draw(
        scores={way: {n: scores[n][way] for n in NETWORKS} for way in WAYS},
        reached={n: known[n] for n in NETWORKS},
    )


def agreement(draws: list[Draw], way: str) -> float:
    """Kendall's τ between the means over the draws, of networks that the way can score."""
    networks = PRETRAINED if way == "LEEP" else NETWORKS
    predicted = [statistics.mean(d.scores[way][n] for d in draws) for n in networks]
    return float(kendalltau(predicted, [_mean(draws)[n] for n in networks]).statistic)


def agreement_by_draw(draws: list[Draw], way: str) -> float:
    """The mean of Kendall's τ between one draw's prediction and what the five reached."""
    networks, means = PRETRAINED if way == "LEEP" else NETWORKS, _mean(draws)
    return statistics.mean(
        float(kendalltau([d.scores[way][n] for n in networks], [means[n] for n in networks])[0])
        for d in draws
    )


def lost(draws: list[Draw], way: str) -> float:
    """Accuracy that following each draw's advice loses, in the mean, to the best network."""
    means = _mean(draws)
    networks = PRETRAINED if way == "LEEP" else NETWORKS
    advised = [max(networks, key=lambda n, d=d: d.scores[way][n]) for d in draws]
    return max(means.values()) - statistics.mean(means[n] for n in advised)


def _mean(draws: list[Draw]) -> dict[str, float]:
    return {n: statistics.mean(d.reached[n] for d in draws) for n in NETWORKS}


def _line(target: str, draws: list[Draw]) -> list[str]:
    means = _mean(draws)
    best = max(means, key=lambda n: means[n])
    cells = [f"{agreement(draws, w):.2f} / {agreement_by_draw(draws, w):.2f}" for w in WAYS]
    losses = [f"{100 * lost(draws, w):.1f}" for w in WAYS]
    return [target, f"{best}, {means[best]:.1%}", *cells, *losses]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=Path, required=True, metavar="DIR")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="DATA-N")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--engine", action="store_true", help="check what is reached, on glyphnets")
    chosen = parser.parse_args()
    chosen.features.mkdir(parents=True, exist_ok=True)
    if chosen.engine:
        print(markdown(CHECKED, list(_checked(chosen.features))))
        return
    targets = {}
    for target in chosen.targets:
        targets[target] = [measured(target, s, chosen.features) for s in range(chosen.seeds)]
        print(markdown(_head(), [_line(target, targets[target])]), flush=True)
    lines = [_line(target, draws) for target, draws in targets.items()]
    print(f"\n{markdown(_head(), lines)}\n\n{_reached_table(targets)}\n")
    for way in WAYS:
        taus = [agreement(draws, way) for draws in targets.values()]
        close = sum(lost(draws, way) <= CLOSE + 1e-9 for draws in targets.values())
        print(f"{way}: mean τ {statistics.mean(taus):.2f}, close in {close} of {len(taus)}")


def _head() -> list[str]:
    taus = [f"τ of {way}: means / one draw" for way in WAYS]
    return [
        "data, labels per class",
        "best, reached",
        *taus,
        *(f"lost by {w}, points" for w in WAYS),
    ]


def _reached_table(targets: Mapping[str, list[Draw]]) -> str:
    """Reached (and, in brackets, the probe's) accuracy by network, in percent."""

    def cell(draws: list[Draw], network: str) -> str:
        probe = statistics.mean(d.scores["accuracy"][network] for d in draws)
        return f"{100 * _mean(draws)[network]:.1f} ({100 * probe:.1f})"

    rows = [[name, *(cell(d, n) for n in NETWORKS)] for name, d in targets.items()]
    return markdown(["reached (probe), %", *NETWORKS], rows)


def _checked(folder: Path) -> Iterator[list[str]]:
    """What is reached by looking features up, by training the network so, and by its defaults."""
    for data in ("digits", "textures"):
        whole = opened(data)
        for network in PRETRAINED[:4]:
            seen = seen_by(network, data, folder)
            rows = drawn(seen.labels["train"], 5, 0)
            part = _part(whole, {"train": torch.from_numpy(rows), "test": torch.arange(TEST)})
            accuracies = (
                reached(seen, rows, 0),
                _trained(part, network, 0),
                _trained(part, network, 0, augment=None),
            )
            yield [f"{data}, 5", network, *(f"{accuracy:.1%}" for accuracy in accuracies)]


if __name__ == "__main__":
    main()
