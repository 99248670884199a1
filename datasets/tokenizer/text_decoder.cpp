#include "datasets/tokenizer/text_decoder.hpp"

#include <cctype>
#include <charconv>

#include "datasets/text/unicode_text.hpp"
#include "datasets/tokenizer/byte_level.hpp"

namespace bipo {

using Tokens = std::vector<std::string>;

// A step of decoding, for one text.  After a step that fuses all tokens into one, that token
// arrives in parts.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void push(std::string token, Tokens& decoded) = 0;
  virtual void finish(Tokens&) {}
};

namespace {

constexpr std::string_view kReplacementCharacter = "\uFFFD";

class JoinStage : public DecoderStage {
 public:
  void push(std::string token, Tokens& decoded) override {
    decoded.push_back(is_first_ ? std::move(token) : " " + token);
    is_first_ = false;
  }

 private:
  bool is_first_ = true;
};

// Collects the parts of the one token for a step that needs it whole.
class GatherStage : public DecoderStage {
 public:
  void push(std::string part, Tokens&) override { whole_ += part; }
  void finish(Tokens& decoded) override { decoded.push_back(std::move(whole_)); }

 private:
  std::string whole_;
};

class ReplaceStage : public DecoderStage {
 public:
  explicit ReplaceStage(const ReplaceStep& step) : step_(step) {}
  void push(std::string token, Tokens& decoded) override {
    decoded.push_back(replace_all(step_, token));
  }

 private:
  const ReplaceStep& step_;
};

// Reads "<0x", two digits, ">"; Hugging Face's parser also accepts a plus sign as the first.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') {
    return std::nullopt;
  }
  std::string_view digits = token.substr(3, 2);
  if (digits.starts_with('+')) {
    digits.remove_prefix(1);
  }
  unsigned char byte = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
  const bool is_byte = error == std::errc() && end == digits.data() + digits.size();
  return is_byte ? std::optional(static_cast<char>(byte)) : std::nullopt;
}

class ByteFallbackStage : public DecoderStage {
 public:
  void push(std::string token, Tokens& decoded) override {
    if (const std::optional<char> byte = byte_of(token)) {
      run_ += *byte;
      return;
    }
    finish(decoded);
    decoded.push_back(std::move(token));
  }

  void finish(Tokens& decoded) override {
    if (!run_.empty() && is_utf8(run_)) {
      decoded.push_back(run_);
    } else {
      decoded.insert(decoded.end(), run_.size(), std::string(kReplacementCharacter));
    }
    run_.clear();
  }

 private:
  std::string run_;
};

void strip_start(const std::string& content, std::size_t& remaining, std::string_view& text) {
  while (remaining > 0 && text.starts_with(content)) {
    text.remove_prefix(content.size());
    --remaining;
  }
}

class StripStage : public DecoderStage {
 public:
  explicit StripStage(const StripDecoding& step) : step_(step) {}

  void push(std::string token, Tokens& decoded) override {
    std::string_view kept = token;
    std::size_t start = step_.start;
    strip_start(step_.content, start, kept);
    for (std::size_t stop = step_.stop; stop > 0 && kept.ends_with(step_.content); --stop) {
      kept.remove_suffix(step_.content.size());
    }
    decoded.emplace_back(kept);
  }

 private:
  const StripDecoding& step_;
};

// Strips the beginning of the one token that arrives in parts.
class StripBeginningStage : public DecoderStage {
 public:
  explicit StripBeginningStage(const StripDecoding& step)
      : content_(step.content), remaining_(step.start) {}

  void push(std::string part, Tokens& decoded) override {
    std::string_view kept = part;
    strip_start(content_, remaining_, kept);
    if (!kept.empty()) {
      remaining_ = 0;
      decoded.emplace_back(kept);
    }
  }

 private:
  const std::string& content_;
  std::size_t remaining_;
};

class MetaspaceStage : public DecoderStage {
 public:
  MetaspaceStage(const MetaspaceDecoding& step, bool is_one_token)
      : step_(step), is_one_token_(is_one_token) {}

  void push(std::string token, Tokens& decoded) override {
    const std::string_view space = is_first_ && step_.drops_first ? "" : " ";
    is_first_ = is_one_token_;
    std::string text;
    for (std::string_view rest = token; !rest.empty();) {
      const std::string_view character = first_character(rest);
      text += character == step_.replacement ? space : character;
      rest.remove_prefix(character.size());
    }
    decoded.push_back(std::move(text));
  }

 private:
  const MetaspaceDecoding& step_;
  bool is_one_token_;
  bool is_first_ = true;
};

class ByteLevelStage : public DecoderStage {
 public:
  void push(std::string token, Tokens& decoded) override {
    held_back_ += from_byte_level(token).value_or(token);
    decoded.push_back(take_text(/*is_last=*/false));
  }

  void finish(Tokens& decoded) override { decoded.push_back(take_text(/*is_last=*/true)); }

 private:
  std::string take_text(bool is_last) {
    std::string text;
    std::string_view rest = held_back_;
    while (!rest.empty()) {
      const Utf8Sequence sequence = first_sequence(rest);
      if (sequence.kind == Utf8Sequence::Kind::kUnfinished && !is_last) {
        break;
      }
      const bool is_character = sequence.kind == Utf8Sequence::Kind::kCharacter;
      text += is_character ? rest.substr(0, sequence.length) : kReplacementCharacter;
      rest.remove_prefix(sequence.length);
    }
    held_back_ = std::string(rest);
    return text;
  }

  std::string held_back_;
};

// Builds the stages for a text; the steps must outlive them.
class StageBuilder {
 public:
  void operator()(const ReplaceStep& step) { add_whole(std::make_unique<ReplaceStage>(step)); }
  void operator()(ByteFallbackDecoding) { add_whole(std::make_unique<ByteFallbackStage>()); }
  void operator()(FuseDecoding) { is_one_token_ = true; }

  void operator()(const StripDecoding& step) {
    if (is_one_token_ && step.stop == 0) {
      stages_.push_back(std::make_unique<StripBeginningStage>(step));
    } else {
      add_whole(std::make_unique<StripStage>(step));
    }
  }

  void operator()(const MetaspaceDecoding& step) {
    stages_.push_back(std::make_unique<MetaspaceStage>(step, is_one_token_));
  }

  void operator()(ByteLevelDecoding) {
    add_whole(std::make_unique<ByteLevelStage>());
    is_one_token_ = true;
  }

  std::vector<std::unique_ptr<DecoderStage>> take() { return std::move(stages_); }

 private:
  void add_whole(std::unique_ptr<DecoderStage> stage) {
    if (is_one_token_) {
      stages_.push_back(std::make_unique<GatherStage>());
    }
    stages_.push_back(std::move(stage));
  }

  std::vector<std::unique_ptr<DecoderStage>> stages_;
  bool is_one_token_ = false;
};

std::string joined(const Tokens& tokens) {
  std::string text;
  for (const std::string& token : tokens) {
    text += token;
  }
  return text;
}

}  // namespace

TextDecoder::Stream::Stream(const TextDecoder& decoder) {
  if (!decoder.steps_) {
    stages_.push_back(std::make_unique<JoinStage>());
    return;
  }
  StageBuilder builder;
  for (const DecoderStep& step : *decoder.steps_) {
    std::visit(builder, step);
  }
  stages_ = builder.take();
}

TextDecoder::Stream::~Stream() = default;
TextDecoder::Stream::Stream(Stream&&) noexcept = default;
TextDecoder::Stream& TextDecoder::Stream::operator=(Stream&&) noexcept = default;

std::string TextDecoder::Stream::push(std::string_view token) {
  pushed_bytes_ += token.size();
  Tokens tokens = {std::string(token)};
  for (const auto& stage : stages_) {
    tokens = push_all(*stage, tokens);
  }
  return joined(tokens);
}

std::string TextDecoder::Stream::finish() {
  Tokens tokens;
  for (const auto& stage : stages_) {
    tokens = push_all(*stage, tokens);
    stage->finish(tokens);
  }
  return joined(tokens);
}

Tokens TextDecoder::Stream::push_all(DecoderStage& stage, Tokens& tokens) const {
  Tokens decoded;
  std::size_t bytes = 0;
  for (std::string& token : tokens) {
    const std::size_t before = decoded.size();
    stage.push(std::move(token), decoded);
    for (std::size_t i = before; i < decoded.size(); ++i) {
      bytes += decoded[i].size();
    }
    require_bounded_growth(pushed_bytes_, bytes);
  }
  return decoded;
}

}  // namespace bipo
