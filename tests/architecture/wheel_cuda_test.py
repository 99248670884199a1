"""Where the build finds CUDA's runtime beside a torch wheel, in the layouts of wheels for CUDA 12 and 13."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "launcher" / "cmake" / "BipoWheelCuda.cmake"
SCRIPT = """
include({module})
bipo_wheel_cuda({torch} major hints)
find_path(RUNTIME cuda_runtime_api.h HINTS ${{hints}} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(CRT crt/host_defines.h HINTS ${{hints}} PATH_SUFFIXES include NO_DEFAULT_PATH)
find_path(CCCL nv/target HINTS ${{hints}} PATH_SUFFIXES include include/cccl NO_DEFAULT_PATH)
find_library(CUDART NAMES libcudart.so.${{major}} HINTS ${{hints}} PATH_SUFFIXES lib NO_DEFAULT_PATH)
message("${{major}}|${{RUNTIME}}|${{CRT}}|${{CCCL}}|${{CUDART}}")
"""
# Files by the layout, with CUDA's version; the folder nvidia/ is left out.
TWELVE = ("cuda_runtime/include/cuda_runtime_api.h", "cuda_runtime/lib/libcudart.so.12",
          "cuda_nvcc/include/crt/host_defines.h", "cuda_cccl/include/nv/target")
THIRTEEN = ("cu13/include/cuda_runtime_api.h", "cu13/lib/libcudart.so.13", "cu13/include/crt/host_defines.h",
            "cu13/include/cccl/nv/target")


def found(site: Path, version: str, files: tuple[str, ...]) -> list[str]:
    """What CMake finds of the runtime's parts, by their places in nvidia/."""
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text(f"__version__ = '2.11.0'\ncuda: Optional[str] = '{version}'\n")
    for file in files:
        path = site / "nvidia" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    script = site / "script.cmake"
    script.write_text(SCRIPT.format(module=MODULE, torch=site / "torch"))
    said = subprocess.run(["cmake", "-P", script], capture_output=True, text=True, check=True).stderr
    return said.strip().replace(f"{site}/nvidia/", "").split("|")


@pytest.mark.parametrize("also", [(), THIRTEEN], ids=["alone", "beside the other"])
def test_packages_of_cuda_12_have_folders_of_their_own(tmp_path, also):
    assert found(tmp_path, "12.8", TWELVE + also) == [
        "12", "cuda_runtime/include", "cuda_nvcc/include", "cuda_cccl/include", "cuda_runtime/lib/libcudart.so.12"]


@pytest.mark.parametrize("also", [(), TWELVE], ids=["alone", "beside the other"])
def test_packages_of_cuda_13_share_one(tmp_path, also):
    assert found(tmp_path, "13.0", THIRTEEN + also) == [
        "13", "cu13/include", "cu13/include", "cu13/include/cccl", "cu13/lib/libcudart.so.13"]
