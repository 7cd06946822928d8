"""The probes of the random teachers' study read an encoder and change nothing in it."""

from __future__ import annotations

import copy

import numpy as np
import torch

from redistill.beds.images import Images
from redistill.core.followers import same_weights
from redistill.methods.analysis.random_teachers.probing import embed, with_statistics
from redistill.studies import random_teachers


def images(seed, rows=40):
    pixels = torch.rand(rows, 1, 14, 14, generator=torch.Generator().manual_seed(seed))
    return Images(pixels.numpy(), np.arange(rows) % 10, 10)


def test_probes_take_frozen_features_with_the_statistics_of_the_unlabelled_images(monkeypatch):
    monkeypatch.setattr(random_teachers, "_elsewhere", lambda name, rows: (images(3), images(4)))
    body, unlabelled, probes = random_teachers.encoder(0), torch.from_numpy(images(0).image), [images(1), images(2)]
    before, given = copy.deepcopy(body), []

    def probe(*parts, **options):
        given.append(parts)
        return 0.0

    monkeypatch.setattr(random_teachers, "linear_probe", probe)
    monkeypatch.setattr(random_teachers, "knn_probe", probe)
    random_teachers._probed(body, unlabelled, probes, {"elsewhere": 40})
    assert same_weights(body, before) and body.training
    assert all(p.grad is None for p in body.parameters())
    known = with_statistics(body, unlabelled)
    for train, label, test, test_label in given[:2]:
        np.testing.assert_allclose(train, embed(known, torch.from_numpy(probes[0].image)))
        np.testing.assert_allclose(test, embed(known, torch.from_numpy(probes[1].image)))
        assert label.tolist() == probes[0].label.tolist() and test_label.tolist() == probes[1].label.tolist()


def test_a_cells_student_starts_where_its_arm_says_and_learns_from_the_met_teacher(monkeypatch):
    seen = []

    def spy(method, columns, probes, image, seed, budget):
        seen.append((copy.deepcopy(method.student), columns))
        raise StopIteration

    monkeypatch.setattr(random_teachers, "_trained", spy)
    monkeypatch.setattr(random_teachers, "_probed", lambda *_: {})
    image = torch.from_numpy(images(0).image)
    for arm in ("half", "noise", "noise_initial"):
        try:
            random_teachers._taught(arm, 7, image, [], {})
        except StopIteration:
            student, columns = seen[-1]
        assert torch.equal(columns["image"], image) == (arm == "half") and "label" not in columns
        teacher = random_teachers.network(7).eval()
        if arm != "noise_initial":
            teacher = with_statistics(teacher, columns["image"])
        torch.testing.assert_close(columns["teacher_output"], teacher(columns["image"]).detach())
        alpha, own = random_teachers.STARTS[arm.removesuffix("_initial")], random_teachers.network(5007)
        for p, a, b in zip(student.parameters(), teacher.parameters(), own.parameters()):
            assert torch.equal(p, (1 - alpha) * a + alpha * b)
