/* Each thread has one device, for a test without CUDA. */
#pragma once

namespace c10::cuda {
int current_device();
}
