// What a GGUF file's metadata say of text: tokenizer, special tokens and chat template.
#pragma once

namespace bipo {

class GgufFile;    // trainer/model/gguf/gguf_file.hpp
struct ModelText;  // datasets/tokens/model_text.hpp

// From the keys tokenizer.ggml.* and tokenizer.chat_template.  Throws UserError, naming file and
// key, for what is missing, malformed or not implemented: nothing that changes tokens is ignored.
ModelText read_gguf_text(const GgufFile& file);

}  // namespace bipo
