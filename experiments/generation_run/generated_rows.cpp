#include "experiments/generation_run/generated_rows.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

// Returns a single user turn as its text, a conversation as its messages.
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
    : path_(path), file_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (!file_.is_open()) {
    throw UserError(
        fmt::format("--out {}: cannot be written: {}", path.string(), std::strerror(errno)));
  }
}

void RowFile::append(const std::string& rows) {
  const auto require = [&](bool succeeded, const char* call) {
    if (!succeeded) {
      throw EnvironmentError(
          fmt::format("{}: {} failed: {}", path_.string(), call, std::strerror(errno)));
    }
  };
  require(write_all(file_, std::as_bytes(std::span(rows))), "write");
  // Pipes and terminals cannot be synced.
  require(::fsync(file_.get()) == 0 || errno == EINVAL || errno == EROFS, "fsync");
}

}  // namespace bipo
