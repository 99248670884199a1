#include "launcher/options/help_page.hpp"

#include <string_view>
#include <vector>

namespace bipo {
namespace {

// Where descriptions begin, behind the option or, where that is longer, below it.
constexpr std::size_t kDescriptionColumn = 30;

// Cuts a text into lines of at most `width` characters, behind the last `separator` that fits; a
// piece without one stays whole.  A blank where a line ends is left out.
std::vector<std::string> wrapped(std::string_view text, char separator, std::size_t width) {
  std::vector<std::string> lines;
  while (text.size() > width) {
    // A blank takes no place at the end of a line.
    const std::size_t last = separator == ' ' ? width : width - 1;
    std::size_t cut = text.rfind(separator, last);
    cut = cut == std::string_view::npos ? text.find(separator, last) : cut;
    if (cut == std::string_view::npos) {
      break;
    }
    lines.emplace_back(text.substr(0, separator == ' ' ? cut : cut + 1));
    text.remove_prefix(cut + 1);
  }
  if (!text.empty()) {
    lines.emplace_back(text);
  }
  return lines;
}

// The option with its value, over several lines where the list of values is long.
std::string head_of(const Field& option) {
  std::string head = "  --" + option.name + " ";
  const std::size_t indent = head.size();
  const std::vector<std::string> values = wrapped(option.value_name, '|', kHelpWidth - indent);
  for (std::size_t i = 0; i < values.size(); ++i) {
    head += (i == 0 ? "" : "\n" + std::string(indent, ' ')) + values[i];
  }
  return head;
}

std::string described(const Field& option) {
  std::string text = head_of(option);
  const std::string margin(kDescriptionColumn, ' ');
  if (text.size() + 2 <= kDescriptionColumn) {
    text.resize(kDescriptionColumn, ' ');
  } else {
    text += "\n" + margin;
  }
  const std::vector<std::string> lines =
      wrapped(option.help(), ' ', kHelpWidth - kDescriptionColumn);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    text += (i == 0 ? "" : margin) + lines[i] + "\n";
  }
  return text;
}

}  // namespace

std::string help_page(const CommandTable& table) {
  std::string page = table.usage;
  for (const FieldGroup& group : table.groups) {
    page += "\n" + group.title + ":\n";
    for (const Field& option : group.fields) {
      page += described(option);
    }
  }
  return page + table.notes;
}

}  // namespace bipo
