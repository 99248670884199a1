// Parses Jinja source into a syntax tree, by Jinja2's own precedence, and renders it.
#include "datasets/jinja/jinja.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <utility>

#include "datasets/jinja/jinja_lexer.hpp"
#include "datasets/jinja/jinja_nodes.hpp"

namespace bipo::jinja {
namespace {

constexpr int kDeepestNesting = 200;  // far beyond any template, well within the stack

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Body parse() {
    Body body = parse_body({});
    if (current().kind != TokenKind::kEnd) {
      fail("unexpected end of a block");
    }
    return body;
  }

 private:
  using Names = std::vector<std::string_view>;

  [[noreturn]] void fail(const std::string& message) const {
    throw UserError(fmt::format("line {}: {}", current().line, message));
  }

  std::string describe_current() const {
    switch (current().kind) {
      case TokenKind::kBlockEnd:
      case TokenKind::kOutputEnd:
        return "the end of the tag";
      case TokenKind::kEnd:
        return "the end of the template";
      default:
        return fmt::format("'{}'", current().text);
    }
  }

  const Token& current() const { return tokens_[position_]; }
  const Token& next() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }

  bool at(TokenKind kind, std::string_view text) const {
    return current().kind == kind && current().text == text;
  }
  bool at_operator(std::string_view text) const { return at(TokenKind::kOperator, text); }
  bool at_keyword(std::string_view text) const { return at(TokenKind::kName, text); }

  bool accept(TokenKind kind, std::string_view text) {
    const bool found = at(kind, text);
    position_ += found ? 1 : 0;
    return found;
  }
  bool accept_operator(std::string_view text) { return accept(TokenKind::kOperator, text); }
  bool accept_keyword(std::string_view text) { return accept(TokenKind::kName, text); }

  std::string expect(TokenKind kind, std::string_view what) {
    if (current().kind != kind) {
      fail(fmt::format("expected {}, found {}", what, describe_current()));
    }
    return tokens_[position_++].text;
  }

  void expect_operator(std::string_view text) {
    if (!accept_operator(text)) {
      fail(fmt::format("expected '{}', found {}", text, describe_current()));
    }
  }

  void expect_keyword(std::string_view text) {
    if (!accept_keyword(text)) {
      fail(fmt::format("expected '{}', found {}", text, describe_current()));
    }
  }

  // Bounds the recursion while the object lives.
  class Nesting {
   public:
    explicit Nesting(Parser& parser) : parser_(parser) {
      if (++parser_.depth_ > kDeepestNesting) {
        parser_.fail("the template is nested too deeply");
      }
    }
    ~Nesting() { --parser_.depth_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    Parser& parser_;
  };

  // Parses statements up to a block tag named in `ends`, whose name becomes the current token.
  Body parse_body(const Names& ends) {
    Body body;
    while (current().kind != TokenKind::kEnd) {
      const int line = current().line;
      StatementPtr statement;
      if (current().kind == TokenKind::kData) {
        statement = make_data(expect(TokenKind::kData, "text"));
      } else if (current().kind == TokenKind::kOutputBegin) {
        statement = parse_output();
      } else {
        if (std::find(ends.begin(), ends.end(), next().text) != ends.end()) {
          ++position_;
          return body;
        }
        statement = parse_block();
      }
      statement->line = line;
      body.push_back(std::move(statement));
    }
    if (!ends.empty()) {
      fail(fmt::format("'{}' is missing", ends.back()));
    }
    return body;
  }

  void end_tag() { expect(TokenKind::kBlockEnd, "the end of the tag"); }

  Body parse_block_until(std::string_view end) {
    end_tag();
    Body body = parse_body({end});
    expect_keyword(end);
    end_tag();
    return body;
  }

  StatementPtr parse_output() {
    expect(TokenKind::kOutputBegin, "'{{'");
    ExpressionPtr value = parse_tuple();
    expect(TokenKind::kOutputEnd, "the end of the tag");
    return make_output(std::move(value));
  }

  StatementPtr parse_block() {
    const Nesting nesting(*this);
    expect(TokenKind::kBlockBegin, "'{%'");
    const std::string tag = expect(TokenKind::kName, "the name of a statement");
    if (tag == "if") {
      return parse_if();
    }
    if (tag == "for") {
      return parse_for();
    }
    if (tag == "set") {
      return parse_set();
    }
    if (tag == "macro") {
      return parse_macro();
    }
    if (tag == "filter") {
      return parse_filter_block();
    }
    if (tag == "generation") {
      return make_generation(parse_block_until("endgeneration"));
    }
    if (tag == "break" || tag == "continue") {
      return parse_loop_control(tag == "break" ? Flow::kBreak : Flow::kContinue);
    }
    --position_;
    fail(fmt::format("the statement '{}' is not supported", tag));
  }

  // Parses {% filter a | b(c) %}body{% endfilter %}.
  StatementPtr parse_filter_block() {
    FilterChain filters;
    do {
      std::string name = expect(TokenKind::kName, "the name of a filter");
      CallArguments arguments = at_operator("(") ? parse_arguments() : CallArguments{};
      filters.emplace_back(std::move(name), std::move(arguments));
    } while (accept_operator("|"));
    return make_filter_block(std::move(filters), parse_block_until("endfilter"));
  }

  StatementPtr parse_loop_control(Flow flow) {
    if (open_loops_ == 0) {
      fail("break and continue are only allowed in a loop");
    }
    end_tag();
    return make_loop_control(flow);
  }

  StatementPtr parse_if() {
    std::vector<std::pair<ExpressionPtr, Body>> branches;
    do {
      ExpressionPtr condition = parse_tuple();
      end_tag();
      branches.emplace_back(std::move(condition), parse_body({"elif", "else", "endif"}));
    } while (accept_keyword("elif"));
    Body otherwise = parse_otherwise("endif");
    return make_if(std::move(branches), std::move(otherwise));
  }

  // Parses the branch "else" if there is one, and the end of the statement.
  Body parse_otherwise(std::string_view end) {
    Body body;
    if (accept_keyword("else")) {
      end_tag();
      body = parse_body({end});
    }
    expect_keyword(end);
    end_tag();
    return body;
  }

  StatementPtr parse_for() {
    Loop loop;
    do {
      loop.targets.push_back(expect(TokenKind::kName, "a name"));
    } while (accept_operator(","));
    expect_keyword("in");
    loop.iterable = parse_or();
    if (accept_keyword("if")) {
      loop.filter = parse_expression();
    }
    if (at_keyword("recursive")) {
      fail("recursive loops are not supported");
    }
    end_tag();
    ++open_loops_;
    loop.body = parse_body({"else", "endfor"});
    --open_loops_;
    loop.otherwise = parse_otherwise("endfor");
    return make_for(std::move(loop));
  }

  StatementPtr parse_set() {
    const std::string name = expect(TokenKind::kName, "a name");
    if (current().kind == TokenKind::kBlockEnd) {
      return make_capture(name, parse_block_until("endset"));
    }
    std::string member;
    if (accept_operator(".")) {
      member = expect(TokenKind::kName, "the name of a member");
    }
    expect_operator("=");
    ExpressionPtr value = parse_tuple();
    end_tag();
    return make_assignment(name, std::move(member), std::move(value));
  }

  StatementPtr parse_macro() {
    MacroDefinition macro;
    macro.name = expect(TokenKind::kName, "the name of the macro");
    expect_operator("(");
    while (!accept_operator(")")) {
      if (!macro.parameters.empty()) {
        expect_operator(",");
      }
      macro.parameters.push_back(expect(TokenKind::kName, "the name of a parameter"));
      macro.defaults.push_back(accept_operator("=") ? parse_expression() : nullptr);
    }
    const int open_loops = std::exchange(open_loops_, 0);
    macro.body = parse_block_until("endmacro");
    open_loops_ = open_loops;
    return make_macro(std::move(macro));
  }

  // `a, b` without parentheses is a tuple.
  ExpressionPtr parse_tuple() {
    ExpressionPtr first = parse_expression();
    if (!at_operator(",")) {
      return first;
    }
    std::vector<ExpressionPtr> elements;
    elements.push_back(std::move(first));
    while (accept_operator(",")) {
      if (at_operator(")") || current().kind == TokenKind::kBlockEnd ||
          current().kind == TokenKind::kOutputEnd) {
        break;
      }
      elements.push_back(parse_expression());
    }
    return make_list(std::move(elements));
  }

  ExpressionPtr parse_expression() {
    const Nesting nesting(*this);
    ExpressionPtr expression = parse_or();
    while (accept_keyword("if")) {
      ExpressionPtr condition = parse_or();
      ExpressionPtr if_false = accept_keyword("else") ? parse_expression() : nullptr;
      expression =
          make_conditional(std::move(condition), std::move(expression), std::move(if_false));
    }
    return expression;
  }

  ExpressionPtr parse_or() {
    ExpressionPtr left = parse_and();
    while (accept_keyword("or")) {
      left = make_and_or(false, std::move(left), parse_and());
    }
    return left;
  }

  ExpressionPtr parse_and() {
    ExpressionPtr left = parse_not();
    while (accept_keyword("and")) {
      left = make_and_or(true, std::move(left), parse_not());
    }
    return left;
  }

  ExpressionPtr parse_not() {
    const Nesting nesting(*this);
    return accept_keyword("not") ? make_not(parse_not()) : parse_comparison();
  }

  ExpressionPtr parse_comparison() {
    ExpressionPtr first = parse_sum();
    std::vector<std::pair<std::string, ExpressionPtr>> rest;
    for (std::string operation = accept_comparison(); !operation.empty();
         operation = accept_comparison()) {
      rest.emplace_back(operation, parse_sum());
    }
    return rest.empty() ? std::move(first) : make_comparison(std::move(first), std::move(rest));
  }

  std::string accept_comparison() {
    for (const char* operation : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (accept_operator(operation)) {
        return operation;
      }
    }
    if (accept_keyword("in")) {
      return "in";
    }
    if (at_keyword("not") && next().kind == TokenKind::kName && next().text == "in") {
      position_ += 2;
      return "not in";
    }
    return {};
  }

  ExpressionPtr parse_sum() {
    ExpressionPtr left = parse_concatenation();
    while (at_operator("+") || at_operator("-")) {
      const std::string operation = expect(TokenKind::kOperator, "an operator");
      left = make_arithmetic(operation, std::move(left), parse_concatenation());
    }
    return left;
  }

  ExpressionPtr parse_concatenation() {
    ExpressionPtr first = parse_product();
    if (!at_operator("~")) {
      return first;
    }
    std::vector<ExpressionPtr> parts;
    parts.push_back(std::move(first));
    while (accept_operator("~")) {
      parts.push_back(parse_product());
    }
    return make_concatenation(std::move(parts));
  }

  ExpressionPtr parse_product() {
    ExpressionPtr left = parse_unary(true);
    while (at_operator("*") || at_operator("/") || at_operator("//") || at_operator("%")) {
      const std::string operation = expect(TokenKind::kOperator, "an operator");
      left = make_arithmetic(operation, std::move(left), parse_unary(true));
    }
    if (at_operator("**")) {
      fail("the operator '**' is not supported");
    }
    return left;
  }

  // A filter after a sign applies to the signed value.
  ExpressionPtr parse_unary(bool with_filters) {
    const Nesting nesting(*this);
    ExpressionPtr node;
    if (accept_operator("-")) {
      node = make_negative(parse_unary(false));
    } else if (accept_operator("+")) {
      node = parse_unary(false);
    } else {
      node = parse_primary();
    }
    node = parse_postfix(std::move(node));
    return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
  }

  ExpressionPtr parse_postfix(ExpressionPtr base) {
    while (true) {
      if (accept_operator(".")) {
        base = parse_attribute(std::move(base));
      } else if (accept_operator("[")) {
        base = parse_subscript(std::move(base));
      } else if (at_operator("(")) {
        base = make_call(std::move(base), parse_arguments());
      } else {
        return base;
      }
    }
  }

  ExpressionPtr parse_attribute(ExpressionPtr base) {
    if (current().kind == TokenKind::kInteger) {
      return make_subscript(std::move(base), parse_integer());
    }
    const std::string name = expect(TokenKind::kName, "the name of an attribute");
    if (at_operator("(")) {
      return make_method_call(std::move(base), name, parse_arguments());
    }
    return make_attribute(std::move(base), name);
  }

  ExpressionPtr parse_subscript(ExpressionPtr base) {
    std::array<ExpressionPtr, 3> bounds;
    std::size_t colons = 0;
    while (!accept_operator("]")) {
      if (accept_operator(":")) {
        if (++colons > 2) {
          fail("a slice has at most three parts");
        }
      } else if (bounds[colons]) {
        fail(fmt::format("expected ']', found {}", describe_current()));
      } else {
        bounds[colons] = parse_expression();
      }
    }
    if (colons > 0) {
      return make_slice(std::move(base), std::move(bounds));
    }
    if (!bounds[0]) {
      fail("the subscript is empty");
    }
    return make_subscript(std::move(base), std::move(bounds[0]));
  }

  CallArguments parse_arguments() {
    CallArguments arguments;
    expect_operator("(");
    parse_elements(")", [&] {
      if (current().kind == TokenKind::kName && next().kind == TokenKind::kOperator &&
          next().text == "=") {
        std::string name = expect(TokenKind::kName, "a name");
        expect_operator("=");
        arguments.named.emplace_back(std::move(name), parse_expression());
      } else {
        arguments.positional.push_back(parse_expression());
      }
    });
    return arguments;
  }

  ExpressionPtr parse_filters_and_tests(ExpressionPtr input) {
    while (true) {
      if (accept_operator("|")) {
        const std::string name = expect(TokenKind::kName, "the name of a filter");
        CallArguments arguments = at_operator("(") ? parse_arguments() : CallArguments{};
        input = make_filter(std::move(input), name, std::move(arguments));
      } else if (accept_keyword("is")) {
        input = parse_test(std::move(input));
      } else {
        return input;
      }
    }
  }

  ExpressionPtr parse_test(ExpressionPtr input) {
    const bool negated = accept_keyword("not");
    const std::string name = expect(TokenKind::kName, "the name of a test");
    CallArguments arguments;
    if (at_operator("(")) {
      arguments = parse_arguments();
    } else if (begins_bare_test_argument()) {
      arguments.positional.push_back(parse_postfix(parse_primary()));
    }
    return make_test(std::move(input), name, std::move(arguments), negated);
  }

  // Jinja allows `x is divisibleby 3`.
  bool begins_bare_test_argument() const {
    switch (current().kind) {
      case TokenKind::kName:
        return !at_keyword("else") && !at_keyword("or") && !at_keyword("and");
      case TokenKind::kString:
      case TokenKind::kInteger:
      case TokenKind::kFloat:
        return true;
      case TokenKind::kOperator:
        return at_operator("[") || at_operator("{");
      default:
        return false;
    }
  }

  ExpressionPtr parse_integer() {
    const std::string digits = expect(TokenKind::kInteger, "an integer");
    constexpr std::size_t kSurelyFits = 18;
    if (digits.size() > kSurelyFits) {
      fail(fmt::format("the integer {} is too large", digits));
    }
    return make_literal(Json(std::stoll(digits)));
  }

  ExpressionPtr parse_float() {
    const std::string digits = expect(TokenKind::kFloat, "a number");
    double value = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc()) {
      fail(fmt::format("the number {} is out of range", digits));
    }
    return make_literal(Json(value));
  }

  ExpressionPtr parse_primary() {
    switch (current().kind) {
      case TokenKind::kName:
        return parse_name();
      case TokenKind::kString: {
        std::string text;
        while (current().kind == TokenKind::kString) {
          text += expect(TokenKind::kString, "a string");
        }
        return make_literal(Json(text));
      }
      case TokenKind::kInteger:
        return parse_integer();
      case TokenKind::kFloat:
        return parse_float();
      default:
        break;
    }
    if (accept_operator("(")) {
      return parse_parenthesised();
    }
    if (accept_operator("[")) {
      return parse_list();
    }
    if (accept_operator("{")) {
      return parse_dict();
    }
    fail(fmt::format("expected an expression, found {}", describe_current()));
  }

  ExpressionPtr parse_name() {
    const std::string name = expect(TokenKind::kName, "a name");
    if (name == "true" || name == "True") {
      return make_literal(Json(true));
    }
    if (name == "false" || name == "False") {
      return make_literal(Json(false));
    }
    if (name == "none" || name == "None") {
      return make_literal(Json(nullptr));
    }
    return make_name(name);
  }

  ExpressionPtr parse_parenthesised() {
    if (accept_operator(")")) {
      return make_list({});
    }
    ExpressionPtr inner = parse_tuple();
    expect_operator(")");
    return inner;
  }

  // Parses elements with commas between up to `end`, which may follow a comma.
  template <typename ParseElement>
  void parse_elements(std::string_view end, const ParseElement& parse_element) {
    bool first = true;
    while (!accept_operator(end)) {
      if (!std::exchange(first, false)) {
        expect_operator(",");
        if (accept_operator(end)) {
          return;
        }
      }
      parse_element();
    }
  }

  ExpressionPtr parse_list() {
    std::vector<ExpressionPtr> elements;
    parse_elements("]", [&] { elements.push_back(parse_expression()); });
    return make_list(std::move(elements));
  }

  ExpressionPtr parse_dict() {
    std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
    parse_elements("}", [&] {
      ExpressionPtr key = parse_expression();
      expect_operator(":");
      entries.emplace_back(std::move(key), parse_expression());
    });
    return make_dict(std::move(entries));
  }

  std::vector<Token> tokens_;
  std::size_t position_ = 0;
  int depth_ = 0;
  int open_loops_ = 0;
};

}  // namespace

struct Template::Impl {
  explicit Impl(std::vector<Token> tokens) {
    for (const Token& token : tokens) {
      if (token.kind == TokenKind::kName || token.kind == TokenKind::kString) {
        words.insert(token.text);
      }
    }
    body = Parser(std::move(tokens)).parse();
  }

  std::set<std::string> words;  // names and strings in tags
  Body body;
};

Template::Template(std::string_view source)
    : impl_(std::make_unique<const Impl>(tokenize(source))) {
}
Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

std::string Template::render(const Json& variables, const CalendarDate& today) const {
  Context context(variables, today);
  std::string output;
  try {
    execute_body(impl_->body, context, output);
  } catch (const TemplateRefusal&) {
    throw;
  } catch (const UserError& error) {
    throw UserError(fmt::format("line {}: {}", context.line, error.what()));
  }
  return output;
}

bool Template::mentions(const std::string& name) const {
  return impl_->words.contains(name);
}

}  // namespace bipo::jinja
