"""Fixtures of the tests that submit to a real Slurm."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_cluster import Cluster
from slurm_submission import Site


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    # Not in pytest's folder: the daemons' sockets need a short path that every user may enter.
    with tempfile.TemporaryDirectory(prefix="bipo-slurm-") as folder:
        Path(folder).chmod(0o755)
        with Cluster(Path(folder)) as running:
            yield running


@pytest.fixture
def site(cluster, tmp_path) -> Site:
    """A folder to submit to the cluster from."""
    return Site(tmp_path, cluster.environment)
