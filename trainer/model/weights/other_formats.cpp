#include "trainer/model/weights/other_formats.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <system_error>

#include "collectives/foundation/errors.hpp"
#include "trainer/model/hub/hub_cache.hpp"

namespace bipo {
namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

// Returns the names of the directory's entries in order, also those of broken links.
Names names_in(const fs::path& directory) {
  Names names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

Names matching(const Names& names, const std::function<bool(const std::string&)>& wanted) {
  Names result;
  std::copy_if(names.begin(), names.end(), std::back_inserter(result), wanted);
  return result;
}

Names ending_with(const Names& names, std::string_view end) {
  return matching(names, [&](const std::string& name) { return name.ends_with(end); });
}

Names beginning_with(const Names& names, std::string_view begin) {
  return matching(names, [&](const std::string& name) { return name.starts_with(begin); });
}

// A shard of a model, not of an adapter or of its makers' format.
bool is_shard(const std::string& name) {
  return name.starts_with("model-") && name.find("-of-") != std::string::npos &&
         name.ends_with(".safetensors");
}

std::string in_quotes(const fs::path& directory, const char* suffix = "") {
  const fs::path plain = directory.has_filename() ? directory : directory.parent_path();
  return fmt::format("\"{}{}\"", plain.string(), suffix);
}

// The line of Python that writes the directory again as safetensors; `how` tells from_pretrained
// what to read.
std::string conversion(const fs::path& directory, const char* how) {
  return fmt::format(
      "python3 -c 'from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
      "M.from_pretrained({0}, {1}).save_pretrained({2}); "
      "T.from_pretrained({0}).save_pretrained({2})'",
      in_quotes(directory), how, in_quotes(directory, "-safetensors"));
}

[[noreturn]] void refuse(const fs::path& directory, const std::string& what) {
  throw UserError(fmt::format("{}: {}", directory.string(), what));
}

std::string listed(const Names& names) {
  constexpr std::size_t kMost = 4;
  Names shown(names.begin(),
              names.begin() + static_cast<std::ptrdiff_t>(std::min(kMost, names.size())));
  return fmt::format("{}{}", fmt::join(shown, ", "), names.size() > kMost ? ", ..." : "");
}

void refuse_pytorch(const fs::path& directory, const Names& names) {
  const Names files = beginning_with(ending_with(names, ".bin"), "pytorch_model");
  if (!files.empty()) {
    refuse(directory, fmt::format("has no safetensors; convert its weights ({}) with: {}",
                                  listed(files), conversion(directory, "dtype=\"auto\"")));
  }
}

void refuse_other_frameworks(const fs::path& directory, const Names& names) {
  struct Format {
    const char* file;
    const char* name;
    const char* how;
  };
  constexpr Format kFormats[] = {{"tf_model.h5", "TensorFlow", "from_tf=True"},
                                 {"flax_model.msgpack", "Flax", "from_flax=True"}};
  for (const Format& format : kFormats) {
    if (std::find(names.begin(), names.end(), format.file) != names.end()) {
      refuse(directory,
             fmt::format("has no safetensors, but {}'s {}; convert it with transformers 4 (5 no "
                         "longer reads it) and {} installed: {}",
                         format.name, format.file, format.name, conversion(directory, format.how)));
    }
  }
  const Names onnx = ending_with(names, ".onnx");
  if (!onnx.empty()) {
    refuse(directory, fmt::format("has no safetensors, but ONNX ({}), which cannot be converted "
                                  "back; get the model's safetensors",
                                  listed(onnx)));
  }
}

// What the makers of Mistral and Llama publish beside, or in place of, transformers' files.  The
// scripts that convert them are in transformers' repository, not in its packages.
void refuse_consolidated(const fs::path& directory, const Names& names) {
  const Names files = beginning_with(names, "consolidated");
  if (files.empty()) {
    return;
  }
  const std::string from = in_quotes(directory);
  const std::string to = in_quotes(directory, "-hf");
  const bool llama = !ending_with(files, ".pth").empty();
  refuse(
      directory,
      fmt::format("has no model.safetensors, but weights in their makers' own format ({}); get "
                  "the model's other safetensors, or convert these with a script of "
                  "transformers' repository: python3 src/transformers/models/{}",
                  listed(files),
                  llama ? fmt::format("llama/convert_llama_weights_to_hf.py --input_dir {} "
                                      "--output_dir {} --llama_version 3.1",
                                      from, to)
                        : fmt::format("mistral/convert_mistral_weights_to_hf.py {} {}", from, to)));
}

void refuse_gguf(const fs::path& directory, const Names& names) {
  const Names files = ending_with(names, ".gguf");
  if (files.size() == 1) {
    refuse(directory, fmt::format("holds a GGUF file, which is a model by itself: --model {}",
                                  (directory / files.front()).string()));
  }
  if (!files.empty()) {
    refuse(directory,
           fmt::format("holds {} GGUF files; give one of them, or the first part of a split one, "
                       "as --model: {}",
                       files.size(), listed(files)));
  }
}

void refuse_other_safetensors(const fs::path& directory, const Names& names) {
  const Names shards = matching(names, is_shard);
  if (!shards.empty()) {
    refuse(directory,
           fmt::format("has shards ({}) without model.safetensors.index.json, which says what "
                       "belongs to the model; get that file too",
                       listed(shards)));
  }
  const Names others = ending_with(names, ".safetensors");
  if (!others.empty()) {
    refuse(directory, fmt::format("has neither model.safetensors nor model.safetensors.index.json, "
                                  "but {}; if that is the model, rename it to model.safetensors",
                                  listed(others)));
  }
}

bool contains(const Names& names, const char* name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void refuse_adapter(const fs::path& directory, const Names& names) {
  if (contains(names, "adapter_config.json")) {
    refuse(directory,
           "is an adapter, not a model: it has adapter_config.json and no config.json; give its "
           "base model as --model and this directory as --adapter");
  }
}

}  // namespace

void refuse_without_safetensors(const fs::path& directory) {
  const Names names = names_in(directory);
  refuse_pytorch(directory, names);
  refuse_other_frameworks(directory, names);
  refuse_consolidated(directory, names);
  refuse_gguf(directory, names);
  refuse_other_safetensors(directory, names);
  refuse(directory,
         fmt::format("has neither model.safetensors nor model.safetensors.index.json; {}",
                     download_advice(directory)));
}

void refuse_without_config(const fs::path& directory) {
  const Names names = names_in(directory);
  refuse_adapter(directory, names);
  refuse_gguf(directory, names);
  refuse_consolidated(directory, names);
}

std::vector<std::string> other_shards(const fs::path& directory,
                                      const std::vector<fs::path>& used) {
  return matching(names_in(directory), [&](const std::string& name) {
    return is_shard(name) && std::none_of(used.begin(), used.end(), [&](const fs::path& path) {
             return path.filename() == name;
           });
  });
}

}  // namespace bipo
