#include "launcher/training/prefix_pass.hpp"

#include <cstdint>
#include <string>

#include "launcher/job/machine.hpp"

namespace bipo {

void run_prefix_pass(Decoder& decoder, const std::vector<ActivationCache*>& caches,
                     const Ranks& ranks, ProgressDisplay* display) {
  fill_caches(decoder, caches, ranks,
              [&](const std::string& what, std::int64_t done, std::int64_t total) {
                if (display != nullptr) {
                  display->phase(what, done, total);
                }
              });
  // Not before: what the pass itself frees, prefix weights above all, goes back to the machine.
  keep_freed_memory();
}

}  // namespace bipo
