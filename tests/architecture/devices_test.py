"""Code asks for the device, not for CUDA: only what calls CUDA's own interface may ask for that."""

from __future__ import annotations

import re

import pytest

from comments_test import SOURCE, sources

# Sources that hand a device to NCCL, to the driver or to CUDA's graphs.
MAY_ASK = {"collectives/device_graph.cpp", "collectives/nccl_communicator.cpp", "collectives/session.cpp",
           "trainer/model/device_kernels/kernel_runner.cpp"}
QUESTION = re.compile(r"\bis_cuda\(\)|[!=]=\s*(?:at|c10)::kCUDA\b")


def asks(text: str) -> bool:
    return QUESTION.search(text) is not None


def test_few_sources_ask_for_cuda():
    asking = {path for path in sources() if not path.startswith("tests/") and asks((SOURCE / path).read_text(encoding="utf-8"))}
    assert "collectives/session.cpp" in asking
    assert asking - MAY_ASK == set()


@pytest.mark.parametrize(("text", "found"), [
    ("if (device.is_cuda()) {", True), ("device.type() == c10::kCUDA", True), ("!device.is_cpu()", False),
    ("at::Device(at::kCUDA)", False),
])
def test_a_question_is_found(text, found):
    assert asks(text) == found
