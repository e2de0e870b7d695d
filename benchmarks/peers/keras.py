"""The peer Keras with the PyTorch backend."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # read on import

import keras

from benchmarks.laps import Laps, Outcome
from benchmarks.peers.loading import DROP, DROP_EVERY, MOMENTUM, RATE, loaders
from benchmarks.work import Task


class Watch(keras.callbacks.Callback):
    """Records where the time goes."""

    def __init__(self, laps: Laps, images: int, batch_size: int) -> None:
        super().__init__()
        self.laps, self.images, self.batch_size = laps, images, batch_size

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.laps.lap("training", min(self.batch_size, self.images - batch * self.batch_size))

    def on_test_batch_end(self, batch: int, logs: object = None) -> None:
        self.laps.lap("evaluating")

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.laps.epoch_starts()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.laps.epoch_ends()


def run(task: Task) -> Outcome:
    """`fit` the wrapped network; frozen parameters are not trainable for Keras either."""
    with keras.device("gpu" if task.job.device.startswith("cuda") else "cpu"):
        model = keras.Sequential([keras.layers.TorchModuleWrapper(task.network)])
        task.laps.start()
        train, test = loaders(task)
        rates = keras.optimizers.schedules.ExponentialDecay(
            RATE, DROP_EVERY * len(train), DROP, staircase=True
        )
        model.compile(
            keras.optimizers.SGD(rates, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=False,
        )
        watch = Watch(task.laps, len(train.dataset), task.job.batch_size)
        seen = model.fit(
            train, epochs=task.job.epochs, validation_data=test, verbose=0, callbacks=[watch]
        )
    return task.laps.outcome(float(seen.history["val_accuracy"][-1]))
