// Collects the good rows of a data file, and the complaints about bad ones.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
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

  // Appends the result of `make_row`.  Where bad rows are skipped, keeps its complaint instead.
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

  // The same for a `make_rows` that returns several; all of them or none are appended.
  template <typename MakeRows>
  void add_all(const MakeRows& make_rows) {
    try {
      for (Row& row : make_rows()) {
        rows_.push_back(std::move(row));
      }
    } catch (const UserError& error) {
      if (bad_rows_ == BadRows::kRefuse) {
        throw;
      }
      skipped_.emplace_back(error.what());
    }
  }

  // The same for a `make_row` whose complaints do not name the place.
  template <typename MakeRow>
  void add_at(const std::string& where, const MakeRow& make_row) {
    add([&] {
      try {
        return make_row();
      } catch (const UserError& error) {
        throw UserError(fmt::format("{}: {}", where, error.what()));
      }
    });
  }

  // Throws UserError if every row was skipped; `what` names a row.
  void require_some(const char* what) const {
    if (rows_.empty() && !skipped_.empty()) {
      throw UserError(fmt::format("every {} was left out by --skip-bad; the first: {}", what,
                                  skipped_.front()));
    }
  }

 private:
  BadRows bad_rows_;
  std::vector<Row>& rows_;
  std::vector<std::string>& skipped_;
};

}  // namespace bipo
