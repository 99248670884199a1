"""The campaign in its short form, and that it knows a bad outcome when it meets one."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

import mutators
import program
from campaign import (BAD, BROKEN, CRASH, HANG, MEMORY, OTHER, REFUSED, SAME, UNNAMED, WRONG, Campaign, Ended,
                      default_folder, judge, table)
from file_kinds import Kind, as_json, standard_output

MUTATIONS = int(os.environ.get("BIPO_MUTATIONS", "2"))


@pytest.mark.parametrize("mutate, original", [
    (mutators.mutate_bytes, b"x"), (mutators.mutate_bytes, bytes(range(256)) * 40),
    (mutators.mutate_json, b'{"a": [1, {"b": null}], "c": "text"}'),
    (mutators.mutate_json_lines, b'{"a": 1}\n{"a": [2]}\n')])
def test_a_seed_means_one_damage(mutate, original):
    made = [mutate(random.Random(seed), original) for seed in range(200)]
    assert made == [mutate(random.Random(seed), original) for seed in range(200)]
    assert len(set(made)) > 40 and original not in made


def test_a_value_far_deeper_than_python_recurses_is_mutated():
    value: object = 0
    for _ in range(5000):
        value = [value]
    assert mutators.mutate_value(random.Random(1), value) is not None


EXACT = Kind("exact", "file.h5", "", (), standard_output)
WEIGHTS = Kind("weights", "model/weights", "", (), standard_output)
SETTINGS = Kind("settings", "file.json", "", (), standard_output, reading=as_json)
CACHE = Kind("cache", "file.h5", "", (), standard_output, must_end_well=True)


@pytest.mark.parametrize("kind, ended, damaged, verdict", [
    (EXACT, Ended(0, "right", ""), "", SAME),
    (EXACT, Ended(2, "", "bipo-dist: file.h5: damaged\n"), "", REFUSED),
    (EXACT, Ended(1, "", "bipo-dist: something is wrong\n"), "", UNNAMED),
    (WEIGHTS, Ended(2, "", "bipo-dist: model: 1 tensor is missing\n"), "", REFUSED),
    (WEIGHTS, Ended(2, "", "bipo-dist: 1 tensor of the model is missing\n"), "", UNNAMED),
    (EXACT, Ended(0, "other", ""), "", WRONG),
    (EXACT, Ended(-11, "", ""), "", CRASH),
    (EXACT, Ended(139, "", ""), "", CRASH),
    (EXACT, Ended(1, "", "terminate called after throwing file.h5"), "", CRASH),
    (EXACT, Ended(None, "right", ""), "", HANG),
    (EXACT, Ended(1, "", "bipo-dist: file.h5: std::bad_alloc"), "", MEMORY),
    (CACHE, Ended(2, "", "bipo-dist: file.h5: damaged\n"), "", BROKEN),
    (SETTINGS, Ended(0, "other", ""), '{"a": 2}', OTHER),
    (SETTINGS, Ended(0, "other", ""), '{ "a": 1 }', WRONG),  # the same content
    (SETTINGS, Ended(0, "other", ""), '{"a": 1', WRONG),  # no content at all
    (SETTINGS, Ended(0, "right", ""), '{"a": 1', SAME),
    (SETTINGS, Ended(1, "", "t: step 1: the loss or its gradient is not finite"), '{"a": 1e38}', OTHER),
    (SETTINGS, Ended(1, "", "t: step 1: the loss or its gradient is not finite"), '{ "a": 1 }', UNNAMED),
    (SETTINGS, Ended(1, "", "t: step 1: something is wrong"), '{"a": 1e38}', UNNAMED)])
def test_outcomes_are_told_apart(tmp_path, kind, ended, damaged, verdict):
    original = tmp_path / "original"
    original.write_text('{"a": 1}', encoding="utf-8")
    (tmp_path / ".damaged").write_text(damaged, encoding="utf-8")
    assert judge(kind, tmp_path, ended, "right", original)[0] == verdict


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    with tempfile.TemporaryDirectory(prefix="bipo-campaign-", dir=default_folder()) as folder:
        yield Campaign(Path(folder), tmp_path_factory.mktemp("offending"))


def test_no_damaged_file_does_harm(campaign):
    workers = min(4, os.cpu_count() or 1)
    outcomes = list(campaign.run_all(campaign.kinds, range(MUTATIONS), workers))
    print(table(outcomes))
    assert len(outcomes) == MUTATIONS * len(campaign.kinds)
    bad = [f"{outcome.verdict}: {outcome.kind.name}, seed {outcome.seed}: {outcome.detail}" for outcome in outcomes
           if outcome.verdict in BAD]
    assert not bad, "\n".join([*bad, f"their files: {campaign.offending}", program.from_environment("BIPO_DIST")])
