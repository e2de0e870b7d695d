"""One module per peer, each with `run(task) -> Outcome`.

The clock starts with reading data; models are built before.
"""

ABOUT = {
    "tutorial": "the loop of PyTorch's transfer-learning tutorial: images decoded anew each epoch, SGD 0.001, tested after each "
    "epoch, best weights kept (so its accuracy is chosen on the test images); fp32",
    "fastai": "`Learner` around the same network (`vision_learner` would add a larger head), its own loaders, `fit_one_cycle`; "
    "`freeze()` leaves normalisation training; bf16 on GPUs",
    "lightning": "`Trainer` without logger, checkpoints, progress bar; loaders, SGD and schedule of the tutorial; "
    "bf16 where native",
    "keras": "PyTorch backend, the same network in `TorchModuleWrapper`, `fit` with loaders, SGD and schedule of the tutorial; "
    "fp32",
    "raw": "a loop made to be fast: decoded once, augmented in batches, channels last, fused AdamW, one cycle, frozen parts in "
    "eval mode, tested once; bf16 where native; nothing cached, nothing compiled",
    "floor": "no training: every image decoded once and shown once to the network",
    "tlnb": "`data`, `strategy`, `train` with its recipe but for epochs and batch size, always in full: a fifth of the training "
    "images is held out to choose the epoch with, tested once; bf16 where native",
}
