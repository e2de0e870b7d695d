"""How many threads a probe's linear algebra takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from tlnb.core.data.splits import Labelled
from tlnb.core.evaluation.probes import cross_validated
from tlnb.core.runtime.blas import on_one_blas_thread
from tlnb.core.tuning.sources import held_out


def blas_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield
        assert blas_threads() == {2}  # and they are as they were


@pytest.mark.parametrize("fit", [cross_validated, held_out])
def test_probes_are_fitted_on_one_blas_thread(monkeypatch, two_threads, fit):
    seen, plain = [], LogisticRegression.fit

    def watched(self, *arguments):
        seen.append((blas_threads(), torch.get_num_threads()))
        return plain(self, *arguments)

    monkeypatch.setattr(LogisticRegression, "fit", watched)
    threads = torch.get_num_threads()
    fit(np.random.default_rng(0).normal(size=(12, 3)), Labelled(np.arange(12) % 2))
    assert seen and all(each == ({1}, threads) for each in seen)


def test_an_error_gives_the_threads_back(two_threads):
    @on_one_blas_thread
    def fails() -> None:
        raise KeyError(str(blas_threads()))

    with pytest.raises(KeyError, match=r"\{1\}"):
        fails()
