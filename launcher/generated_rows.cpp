#include "launcher/generated_rows.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "collectives/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// A lone user turn as its text, a conversation as its messages.
Json prompt_json(const Prompt& prompt) {
  if (prompt.messages.size() == 1 && prompt.messages.front().role == "user") {
    return prompt.messages.front().content;
  }
  Json messages = Json::array();
  for (const Message& message : prompt.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return messages;
}

}  // namespace

std::string json_row(const GeneratedRow& row) {
  Json json;
  json["prompt_index"] = row.prompt_index;
  json["prompt"] = prompt_json(row.prompt);
  json["multiplier"] = row.multiplier;
  if (row.multipliers.size() > 1) {
    json["multipliers"] = row.multipliers;
  }
  json["text"] = row.text;
  json["tokens"] = row.generated.tokens;
  const auto count = static_cast<double>(row.generated.tokens.size());
  json["mean_logprob"] = count == 0 ? Json() : Json(row.generated.log_prob / count);
  json["finish_reason"] = row.generated.stopped ? "stop" : "length";
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

RowFile::RowFile(const std::filesystem::path& path)
    : path_(path), stream_(path, std::ios::binary | std::ios::trunc) {
  append("");
}

void RowFile::append(const std::string& rows) {
  stream_ << rows << std::flush;
  if (!stream_) {
    throw EnvironmentError(
        fmt::format("{}: writing failed: {}", path_.string(), std::strerror(errno)));
  }
}

}  // namespace bipo
