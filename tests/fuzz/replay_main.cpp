// Runs a fuzz target over stored inputs, for compilers that have no libFuzzer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

std::vector<std::filesystem::path> files_in(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string bytes_of(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) {
    throw std::runtime_error("cannot be read");
  }
  return bytes;
}

bool passes(const std::filesystem::path& file) {
  try {
    const std::string bytes = bytes_of(file);
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    return true;
  } catch (const std::exception& error) {
    std::cerr << file.string() << ": " << error.what() << '\n';
    return false;
  }
}

}  // namespace

// Arguments: directories of inputs, each with at least one.
int main(int argc, char** argv) {
  int inputs = 0;
  int failures = 0;
  for (int i = 1; i < argc; ++i) {
    const auto files = files_in(argv[i]);
    if (files.empty()) {
      std::cerr << argv[i] << ": no inputs\n";
      ++failures;
    }
    for (const auto& file : files) {
      ++inputs;
      failures += passes(file) ? 0 : 1;
    }
  }
  std::cout << inputs << " inputs, " << failures << " failures\n";
  return inputs > 0 && failures == 0 ? 0 : 1;
}
