// Device code that was compiled before, kept in files.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "trainer/model/device_kernels/nvrtc.hpp"

namespace bipo {

// The text of kernel_elements.cuh, delta_net_kernels.cuh and device_kernels.cuh, in this order.
extern const char* const kKernelSource;

// Returns the folder of the files, in the user's cache ($XDG_CACHE_HOME, else ~/.cache); empty
// where there is none.
std::filesystem::path kernel_cache_folder();

// Returns the device code of `source` for `architecture`: from its file in `folder`, if that is
// whole, this user's, and made from the same source by the same version of NVRTC with the same
// options, else compiled, and kept there if possible.  Several processes may do so at a time.
// Throws EnvironmentError as compile() does.
std::string device_code(const Nvrtc& nvrtc, const std::string& source,
                        std::string_view architecture, const std::filesystem::path& folder);

// Returns the path of that file.
std::filesystem::path device_code_file(const Nvrtc& nvrtc, std::string_view source,
                                       std::string_view architecture,
                                       const std::filesystem::path& folder);

}  // namespace bipo
