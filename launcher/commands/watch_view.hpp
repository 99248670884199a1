// What a run or a sweep looks like at a moment, read from its files, which stay as they are.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "experiments/progress/progress.hpp"

namespace bipo {

struct Picture {
  std::vector<BoardLine> lines;
  bool is_final = false;  // nothing more will come: all is complete or has failed
};

// Looks at one place again and again.
class WatchView {
 public:
  virtual ~WatchView() = default;

  // Returns at most `rows` lines where it can leave some out.  Throws UserError where the place
  // holds nothing that can be shown.
  virtual Picture look(std::size_t rows) = 0;
};

// Makes the view of a sweep's directory, a run file, or a log of --log-jsonl.  Throws UserError
// where `path` is none of them.
std::unique_ptr<WatchView> make_watch_view(const std::filesystem::path& path);

}  // namespace bipo
