#include "launcher/model_text.hpp"

#include "launcher/gguf_text.hpp"
#include "trainer/model/model_files.hpp"

namespace bipo {

ModelText open_model_text(const std::filesystem::path& model) {
  return names_directory(model) ? read_model_text(model) : read_gguf_text(GgufFile(model));
}

}  // namespace bipo
