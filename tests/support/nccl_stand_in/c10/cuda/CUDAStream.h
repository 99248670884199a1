/* Each thread has one stream, for a test without CUDA. */
#pragma once

#include "cuda_runtime_api.h"

namespace c10::cuda {
cudaStream_t getCurrentCUDAStream();
}
