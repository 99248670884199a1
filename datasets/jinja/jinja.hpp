// A strict interpreter for the part of Jinja2 that chat templates use.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "collectives/foundation/errors.hpp"
#include "datasets/text/template_date.hpp"

namespace bipo::jinja {

// The values in templates; objects keep their order, as Python's dicts do.
using Json = nlohmann::ordered_json;

// Thrown when the template itself refuses its input by calling raise_exception.
class TemplateRefusal : public UserError {
 public:
  using UserError::UserError;
};

// A parsed template.  Follows Jinja2's documented behaviour with trim_blocks and lstrip_blocks on
// and the immutable sandbox, as transformers runs chat templates.  Constructs outside the
// implemented subset (see README.md) are a UserError that names them: syntax when parsing; filters,
// tests, methods and functions when the template reaches them.
class Template {
 public:
  explicit Template(std::string_view source);  // throws UserError "line N: ..."
  ~Template();
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;

  // `variables` is an object; strftime_now writes `today`.  Throws UserError "line N: ...",
  // TemplateRefusal from raise_exception.
  std::string render(const Json& variables, const CalendarDate& today) const;

  // Whether a tag holds `name`, as a name or as a string: without that, no value of a variable or
  // member of that name can change the output, unless the template prints all members of an object.
  bool mentions(const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace bipo::jinja
