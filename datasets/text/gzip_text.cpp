#include "datasets/text/gzip_text.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "collectives/foundation/errors.hpp"

namespace bipo {
namespace {

constexpr std::string_view kGzipMark = "\x1f\x8b";
constexpr std::size_t kPiece = std::size_t{1} << 20;

// Ends the stream of zlib whatever happens.
struct InflateStream {
  explicit InflateStream(const std::string& file) {
    constexpr int kGzipWindow = 15 + 16;  // the largest window, and a gzip header
    if (inflateInit2(&zlib, kGzipWindow) != Z_OK) {
      throw EnvironmentError(fmt::format("{}: zlib cannot start: {}", file,
                                         zlib.msg != nullptr ? zlib.msg : "no memory"));
    }
  }
  ~InflateStream() { inflateEnd(&zlib); }
  InflateStream(const InflateStream&) = delete;
  InflateStream& operator=(const InflateStream&) = delete;

  z_stream zlib{};
};

}  // namespace

bool is_gzip(std::string_view bytes) {
  return bytes.starts_with(kGzipMark);
}

namespace {

// Text packs by 3 to 20, the same rows again and again by more; a file that is made to fill the
// memory by up to 1030.
constexpr std::size_t kMostRatio = 64;
constexpr std::size_t kAlwaysAllowed = std::size_t{64} << 20;

// Calls `take` with piece after piece of the unpacked bytes.
template <typename Take>
void inflate_all(std::string_view bytes, const std::string& file, const Take& take) {
  InflateStream stream(file);
  std::vector<char> piece(kPiece);
  int status = Z_OK;
  while (status != Z_STREAM_END || !bytes.empty()) {
    if (status == Z_STREAM_END) {  // a further member follows
      inflateReset(&stream.zlib);
    }
    const std::size_t given = std::min<std::size_t>(bytes.size(), std::numeric_limits<uInt>::max());
    // zlib only reads what next_in points to.
    stream.zlib.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream.zlib.avail_in = static_cast<uInt>(given);
    stream.zlib.next_out = reinterpret_cast<Bytef*>(piece.data());
    stream.zlib.avail_out = static_cast<uInt>(piece.size());
    status = inflate(&stream.zlib, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END) {
      throw UserError(fmt::format("{}: the gzip file is {}; get or pack it again", file,
                                  status == Z_BUF_ERROR ? "cut short" : "damaged"));
    }
    take(std::string_view(piece.data(), piece.size() - stream.zlib.avail_out));
    bytes.remove_prefix(given - stream.zlib.avail_in);
  }
}

}  // namespace

std::string gunzip(std::string_view bytes, const std::string& file) {
  const std::size_t most = std::max(kAlwaysAllowed, kMostRatio * bytes.size());
  std::size_t size = 0;
  // Counted before any is kept, so that what is refused takes no memory.
  inflate_all(bytes, file, [&](std::string_view piece) {
    size += piece.size();
    if (size > most) {
      throw UserError(
          fmt::format("{}: unpacks to more than {} times its {} bytes, as only files that are made "
                      "to fill the memory do; if it is meant so, unpack it and give the result",
                      file, kMostRatio, bytes.size()));
    }
  });
  std::string text;
  text.reserve(size);
  inflate_all(bytes, file, [&](std::string_view piece) { text.append(piece); });
  return text;
}

}  // namespace bipo
