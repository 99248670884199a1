// Keeps the good rows of a data file, and count of the bad ones.
#pragma once

#include <string>
#include <vector>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/conversation.hpp"

namespace bipo {

// Appends to two lists that must outlive it.
template <typename Row>
class RowCollector {
 public:
  RowCollector(BadRows bad_rows, std::vector<Row>& rows, std::vector<std::string>& skipped)
      : bad_rows_(bad_rows), rows_(rows), skipped_(skipped) {}

  // Appends what `make_row` returns, or its complaint where bad rows are to be skipped.
  template <typename MakeRow>
  void add(const MakeRow& make_row) {
    try {
      rows_.push_back(make_row());
    } catch (const UserError& error) {
      if (bad_rows_ == BadRows::kRefuse) {
        throw;
      }
      skipped_.emplace_back(error.what());
    }
  }

 private:
  BadRows bad_rows_;
  std::vector<Row>& rows_;
  std::vector<std::string>& skipped_;
};

}  // namespace bipo
