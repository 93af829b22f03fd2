"""The simulation of workers: what it says where the answer is known."""

import numpy as np
import pytest

from benchmarks.studies.scaling_model import Model, Work, combining_tasks, fit, simulate

FREE = Model(*(0.0,) * 6)


def test_one_worker_takes_the_sum_of_all_work():
    found = simulate(FREE, 1, trees=3, parts=9, block=2.0, combined=0.5, result=1e9)
    moved = 3 * (7 + 0 + 1) * 1e9 / 1.25e9  # of trees of 8 and 1 blocks, and of their two results, all but one each
    assert found.seconds == pytest.approx(3 * 9 * 2.0 + 3 * (9 + 2) * 0.5 + moved)
    assert found.limit == "computing"


def test_a_scheduler_hands_out_one_task_after_another():
    found = simulate(
        FREE._replace(task=1.0, evaluation=5.0, worker=0.1), 100, 1, 9, block=0.0, combined=0.0, result=0.0
    )
    assert found.seconds == pytest.approx(5.0 + 10.0 + 9 + 3)
    assert (found.busy, found.limit) == (0.0, "the scheduler")


def test_workers_share_blocks_and_the_last_combination_waits_for_all():
    found = simulate(FREE, 4, 1, 8, block=1.0, combined=0.0, result=1.25e9)
    assert found.seconds == pytest.approx(2.0 + 7.0)
    assert simulate(FREE, 8, 1, 8, block=1.0, combined=1.0, result=0.0).seconds == pytest.approx(1.0 + 8.0)
    assert simulate(FREE, 8, 1, 8, block=0.1, combined=0.0, result=1.25e12).limit == "the network"


def test_a_fit_finds_what_was_put_in_and_says_what_it_misses():
    model, rng = Model(0.03, 0.001, 0.002, 1e-10, 2e-9, 5e-9), np.random.default_rng(0)
    works = [Work(w, int(t), m, e, r) for w in (1, 2, 3) for t, m, e, r in rng.integers(10, 1e8, (8, 4))]
    works = [work._replace(tasks=work.tasks % 97, multiplications=100.0 * work.multiplications) for work in works]
    shared = [m * model.multiplication + e * model.entry + r * model.shard_row for *_, m, e, r in works]
    seconds = [
        model.evaluation + model.worker * work.workers + model.task * work.tasks + whole / work.workers
        for work, whole in zip(works, shared, strict=True)
    ]
    found, error = fit(list(zip(works, seconds, strict=True)))
    assert np.allclose(found, model, rtol=1e-5)
    assert error < 1e-6
    seconds[0] *= 1.5
    assert fit(list(zip(works, seconds, strict=True)))[1] > 0.1


def test_trees_have_eight_branches():
    assert [combining_tasks(parts) for parts in (1, 2, 8, 9, 64, 65)] == [0, 1, 1, 3, 9, 12]
