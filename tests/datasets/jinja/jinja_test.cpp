// The template interpreter against outputs that Jinja2's documentation prescribes, and what it
// refuses.
#include "datasets/jinja/jinja.hpp"

#include <gtest/gtest.h>

namespace bipo::jinja {
namespace {

constexpr CalendarDate kToday{std::chrono::year{2024}, std::chrono::month{7}, std::chrono::day{6}};

std::string render(std::string_view source, const Json& variables = Json::object()) {
  return Template(source).render(variables, kToday);
}

std::string complaint(std::string_view source, const Json& variables = Json::object()) {
  try {
    return "accepted: " + render(source, variables);
  } catch (const UserError& error) {
    return error.what();
  }
}

void expect_complaint(std::string_view source, const std::vector<std::string>& fragments) {
  const std::string message = complaint(source);
  for (const std::string& fragment : fragments) {
    EXPECT_NE(message.find(fragment), std::string::npos)
        << source.substr(0, 200) << "\ngave: " << message;
  }
}

TEST(JinjaTemplates, KnowTheNamesAndTextsInTheirTags) {
  const Template chat("{# a #} b {% if c.d %}{{ e['f'] | default(g) }}{% endif %}");
  for (const char* name : {"c", "d", "e", "f", "g"}) {
    EXPECT_TRUE(chat.mentions(name)) << name;
  }
  for (const char* name : {"a", "b", "h"}) {
    EXPECT_FALSE(chat.mentions(name)) << name;
  }
}

TEST(Jinja, BlockTagsTakeTheirLineWithThem) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(render("a\n  {# note #}\nb"), "a\nb");
  EXPECT_EQ(render("x {% if true %}y{% endif %}"), "x y");
  EXPECT_EQ(render("{{ 1 }}\n{{ 2 }}\n\n"), "1\n2\n");
}

TEST(Jinja, SignsStripAndKeepWhitespace) {
  EXPECT_EQ(render("a \n {{- 'b' -}} \n c"), "abc");
  EXPECT_EQ(render("a\n  {%- if true -%}\n  b{% endif %}"), "ab");
  EXPECT_EQ(render("a\n  {%+ if true +%}\nb{% endif %}"), "a\n  \nb");
  EXPECT_EQ(render("a\r\nb\rc"), "a\nb\nc");
}

TEST(Jinja, LoopsKnowTheirPlaceAndFilterFirst) {
  EXPECT_EQ(render("{% for i in [5, 6, 7, 8] if i != 6 %}{{ loop.index }}{{ loop.index0 }}{{ i }}"
                   "{{ ',' if not loop.last }}{% endfor %}"),
            "105,217,328");
  EXPECT_EQ(render("{% for i in [] %}x{% else %}empty{% endfor %}"), "empty");
  EXPECT_EQ(render("{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}"), "b1a2");
  EXPECT_EQ(render("{% for i in 'a\u00e4\u4f60' %}[{{ i }}]{% endfor %}"), "[a][\u00e4][\u4f60]");
}

TEST(Jinja, AssignmentsInALoopStayThereExceptInANamespace) {
  EXPECT_EQ(render("{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{% endfor %}{{ x }}"), "1");
  EXPECT_EQ(
      render(
          "{% set n = namespace(x=1) %}{% for i in [1] %}{% set n.x = 2 %}{% endfor %}{{ n.x }}"),
      "2");
  EXPECT_EQ(render("{% if true %}{% set x = 2 %}{% endif %}{{ x }}"), "2");
}

TEST(Jinja, MacrosDoNotSeeTheVariablesOfTheirCaller) {
  EXPECT_EQ(
      render("{% set g = 'g' %}{% macro f(a, b=2) %}{{ a }}{{ b }}{{ g }}{{ i }}{% endmacro %}"
             "{% for i in [7] %}{{ f(1) }}{{ i }}{% endfor %}"),
      "12g7");
}

TEST(Jinja, PrecedenceIsJinjas) {
  EXPECT_EQ(render("{{ 2 * 3 ~ 4 }}"), "64");
  EXPECT_EQ(render("{{ 'a' + ' b ' | trim }}"), "ab");
  EXPECT_EQ(render("{{ not 1 == 2 and true }}"), "True");
  EXPECT_EQ(render("{{ false or 'x' }}{{ 0 and 1 }}"), "x0");
  EXPECT_EQ(render("{{ 1 < 2 < 2 }}"), "False");
  EXPECT_EQ(render("{{ 'a' if false else 'b' if false else 'c' }}"), "c");
  EXPECT_EQ(render("{{ -7 // 2 }},{{ -7 % 3 }},{{ 7 / 2 }},{{ 6 / 2 }}"), "-4,2,3.5,3.0");
}

TEST(Jinja, SlicesFollowPython) {
  const Json text = {{"s", "abcdef"}};
  EXPECT_EQ(render("{{ s[1:3] }}|{{ s[:-1] }}|{{ s[::2] }}|{{ s[::-1] }}|{{ s[9:] }}", text),
            "bc|abcde|ace|fedcba|");
  EXPECT_EQ(render("{{ s[-9:2] }}|{{ s[4:1:-1] }}|{{ s[::9223372036854775] }}", text), "ab|edc|a");
  EXPECT_EQ(render("{{ [1, 2, 3][1:] | tojson }}"), "[2, 3]");
}

TEST(Jinja, UndefinedIsFalsyEmptyAndNotToBeLookedInto) {
  EXPECT_EQ(render("[{{ x }}]{{ 'y' if x else 'n' }}{{ x is defined }}{{ x | length }}"),
            "[]nFalse0");
  EXPECT_EQ(render("[{{ m.x }}][{{ m['y'] }}]", {{"m", {{"a", 1}}}}), "[][]");
  EXPECT_EQ(render("{{ x | default('d') }}{{ '' | default('e', true) }}{{ none }}"), "deNone");
  expect_complaint("{{ x.y }}", {"line 1", "'x' is undefined"});
  expect_complaint("{{ x + 'y' }}", {"'x' is undefined"});
  expect_complaint("{{ x() }}", {"'x' is undefined", "cannot be called"});
}

TEST(Jinja, TestsTellTypesApart) {
  const Json values = {{"s", "t"}, {"n", nullptr}, {"l", {1}}, {"m", {{"k", 1}}}};
  EXPECT_EQ(render("{{ s is string }}{{ m is mapping }}{{ l is iterable }}{{ n is none }}", values),
            "TrueTrueTrueTrue");
  EXPECT_EQ(
      render("{{ l is string }}{{ l is mapping }}{{ n is iterable }}{{ s is not none }}", values),
      "FalseFalseFalseTrue");
  EXPECT_EQ(render("{{ true is true }}{{ 1 is true }}{{ false is false }}{{ 2.5 is number }}"),
            "TrueFalseTrueTrue");
}

// ByteDance's Seed-OSS looks a number up in a dict of numbers.
TEST(Jinja, KeysOfDictsMayBeIntegers) {
  const std::string dict = "{% set d = {0: 'a', 1024: 'c', 512: 'b', '512': 'text'} %}";
  EXPECT_EQ(render(dict + "{{ d[512] }} {{ d['512'] }} {{ d.get(1024) }} {{ d.get(7, 'none') }}"),
            "b text c none");
  EXPECT_EQ(render(dict + "{{ 0 in d }} {{ '0' in d }} {{ d[7] is defined }} {{ d | length }}"),
            "True False False 4");
  EXPECT_EQ(render("{% for k, v in {16: 'x', 2: 'y', -1: 'z'} | dictsort %}{{ k + 1 }}{{ v }} "
                   "{% endfor %}"),
            "0z 3y 17x ");
  EXPECT_EQ(render(dict + "{{ d | tojson }}{% for k in d %}{{ k }} {% endfor %}"),
            R"({"0": "a", "1024": "c", "512": "b", "512": "text"}0 1024 512 512 )");
  EXPECT_EQ(render("{{ {10: 1, 9: 2} | tojson(sort_keys=true) }}"), R"({"9": 2, "10": 1})");
  EXPECT_THROW(render("{{ {1.5: 1} }}"), UserError);
  EXPECT_THROW(render("{{ {1: 1, 'a': 2} | dictsort }}"), UserError);
}

TEST(Jinja, ToJsonWritesAsPythonDoes) {
  EXPECT_EQ(render("{{ {'a': [1, 2.0, none, true], 'b': {}, 'c': 'q\"\\u00e4\\n'} | tojson }}"),
            R"({"a": [1, 2.0, null, true], "b": {}, "c": "q\"ä\n"})");
  EXPECT_EQ(
      render(
          "{{ {'b': '\u00e4', 'B': [1]} | tojson(true, separators=(',', ':'), sort_keys=true) }}"),
      R"({"B":[1],"b":"\u00e4"})");
  EXPECT_EQ(render("{% for k, v in {'b': 1, 'C': 2, 'a': 3} | dictsort %}{{ k ~ v }}{% endfor %}"),
            "a3b1C2");
  EXPECT_EQ(
      render(
          "{% for k, v in {'b': 1, 'C': 2} | dictsort(true, reverse=true) %}{{ k }}{% endfor %}"),
      "bC");
  EXPECT_EQ(
      render("{{ 'aB' | capitalize }}{{ 'hELLO'.capitalize() }}{{ ([1] | tojson | safe) ~ '<' }}"),
      "AbHello[1]<");
  EXPECT_EQ(render("{{ {'a': [1, 2]} | tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1,\n    2\n  ]\n}");
}

TEST(Jinja, TrimKnowsUnicodeSpaces) {
  EXPECT_EQ(render("[{{ s | trim }}]", {{"s", "\u00a0\u3000\x1c x \u2028\n"}}), "[x]");
  EXPECT_EQ(render("[{{ s.lstrip() }}][{{ s.rstrip() }}]", {{"s", " x "}}), "[x ][ x]");
}

TEST(Jinja, SelectionKeepsElementsThatPassATest) {
  const Json turns = {{"turns",
                       {{{"role", "user"}, {"at", {{"n", 1}}}},
                        {{"role", "assistant"}, {"at", {{"n", 2}}}},
                        {{"role", "user"}, {"at", {{"n", 3}}}}}}};
  EXPECT_EQ(render("{% set u = turns | selectattr('role', 'equalto', 'user') | list %}"
                   "{{ u | length }}{{ u[-1] == turns[2] }}{{ u[0] == turns[1] }}",
                   turns),
            "2TrueFalse");
  EXPECT_EQ(render("{{ (turns | rejectattr('at.n', 'in', [1, 3]) | first).at.n }}", turns), "2");
  EXPECT_EQ(render("{{ turns | selectattr('role') | list | length }}"
                   "{{ turns | selectattr('none') | list | length }}",
                   turns),
            "30");
  EXPECT_EQ(render("{{ [0, 1, '', 'a'] | select | join(',') }}"
                   "{{ ['a', 'b'] | reject('equalto', 'a') | join }}"
                   "{{ 1 is equalto 1 }}{{ 1 is ne 1 }}"),
            "1,abTrueFalse");
  expect_complaint("{{ [1] | select('nonsense') | list }}", {"'nonsense'", "not supported"});
}

TEST(Jinja, TodayIsTheDayThatItIsGiven) {
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %-d; %H:%M %%') }}"),
            "06 Jul 2024|Saturday, July 6; 00:00 %");
  for (const char* format : {"%Z", "%", "%-", "%c", "%Q"}) {
    expect_complaint(std::string("{{ strftime_now('") + format + "') }}",
                     {"directive", "not supported"});
  }
}

TEST(Jinja, RaiseExceptionIsTheTemplatesOwnRefusal) {
  try {
    render("{{ raise_exception('no ' + 'system') }}");
    FAIL() << "no exception";
  } catch (const TemplateRefusal& refusal) {
    EXPECT_STREQ(refusal.what(), "no system");
  }
}

TEST(Jinja, UnsupportedConstructsAreNamedWithTheirLine) {
  expect_complaint("\n\n{% include 'x' %}", {"line 3", "'include'"});
  expect_complaint("a\n{{ 1 | center }}", {"line 2", "filter 'center'"});
  expect_complaint("{{ 3 is sameas 3 }}", {"test 'sameas'"});
  expect_complaint("{{ 'x'.zfill(3) }}", {"string method 'zfill'"});
  expect_complaint("{{ [1].append(2) }}", {"method 'append'", "list"});
  expect_complaint("{{ 2 ** 3 }}", {"'**'"});
  expect_complaint("{{ [1] }}", {"list", "tojson"});
  expect_complaint("{{ [1] | join(attribute='x') }}", {"'attribute'", "filter 'join'"});
  expect_complaint("{{ '\u00e4' | upper }}", {"ASCII"});
}

TEST(Jinja, NumbersAreReadAsPythonReadsThem) {
  EXPECT_EQ(render("{{ ' 12 ' | int + 1 }},{{ '3.9' | int }},{{ 'x' | int(7) }},{{ none | int }}"),
            "13,3,7,0");
  EXPECT_EQ(render("{{ '2.5' | float }},{{ 3 | float }},{{ -3 | abs }},{{ 2.5 | round }}"),
            "2.5,3.0,3,2.0");
  expect_complaint("{{ '12' | int(0, 16) }}", {"'int'", "base"});
  expect_complaint("{{ 'inf' | float }}", {"'inf'", "not supported"});
  expect_complaint("{{ x | int }}", {"'x' is undefined"});
  expect_complaint("{{ 99999999999999999999.0 | int }}", {"64-bit"});
}

TEST(Jinja, SequencesAreMappedAndSorted) {
  EXPECT_EQ(render("{{ [{'n': 'b'}, {'n': 'A'}] | map(attribute='n') | sort | join(',') }}"),
            "A,b");
  EXPECT_EQ(render("{{ [3, 1, 3] | unique | reverse | join }}{{ [1, 2] | sum }}"), "133");
  EXPECT_EQ(render("{{ 'a\nb' | indent(2, true) }}"), "  a\n  b");
  expect_complaint("{{ [1, 'a'] | sort }}", {"'<'", "not supported"});
  expect_complaint("{{ [{}] | map(attribute='n') | list }}", {"'n'"});
  expect_complaint("{{ [1] | map }}", {"map needs"});
  expect_complaint("{{ range(3000) | unique | join }}", {"more than 2000"});
}

TEST(Jinja, FormatTakesPlainFieldsOnly) {
  EXPECT_EQ(render("{{ '{}-{}'.format(1, 'x') }}{{ '%s%%' | format(5) }}"), "1-x5%");
  expect_complaint("{{ '{:>4}'.format(1) }}", {"'{:>4}'", "not supported"});
  expect_complaint("{{ '{0.__class__}'.format(1) }}", {"not supported"});
  expect_complaint("{{ '{}'.format() }}", {"no argument 0"});
  expect_complaint("{{ '{}{0}'.format(1) }}", {"mixes"});
  expect_complaint("{{ '%x' | format(1) }}", {"'%x'", "not supported"});
}

TEST(Jinja, FilterBlocksChangeTheirText) {
  EXPECT_EQ(render("{% filter upper | replace('A', 'b') %}a{{ 1 }}c{% endfilter %}"), "b1C");
  EXPECT_EQ(render("{% for i in range(3) %}{{ i }}{% filter upper %}a{% break %}{% endfilter %}"
                   "{% endfor %}"),
            "0");
  expect_complaint("{% filter nonsense %}{% endfilter %}", {"'nonsense'"});
}

TEST(Jinja, UnreachedFiltersDoNoHarm) {
  EXPECT_EQ(render("{% if tools %}{{ tools | reject('equalto', 'x') | join }}{% endif %}ok"), "ok");
}

TEST(Jinja, MalformedSourceIsRefusedWithItsLine) {
  expect_complaint("a\n{{ 'x", {"line 2", "not closed"});
  expect_complaint("{% if x %}", {"'endif' is missing"});
  expect_complaint("{% endfor %}", {"'endfor'"});
  expect_complaint("{{ 1 + }}", {"expected an expression", "the end of the tag"});
  expect_complaint("{# x", {"comment", "not closed"});
  expect_complaint("{{ (1 }}", {"expected"});
  expect_complaint("{{ 1 ? 2 }}", {"'?'"});
  expect_complaint("{{ x[] }}", {"subscript is empty"});
  expect_complaint("{% break %}", {"loop"});
}

TEST(Jinja, HostileSourceEndsInAnError) {
  const std::string open(900, '(');
  const std::string close(900, ')');
  expect_complaint("{{ " + open + "1" + close + " }}", {"nested too deeply"});
  expect_complaint("{{ " + std::string(1900, '-') + "1 }}", {"nested too deeply"});
  expect_complaint("{{ " + std::string(100000, '(') + " }}", {"more than 2000 tokens"});
  std::string sum = "1";
  for (int term = 0; term < 100000; ++term) {
    sum += "+1";
  }
  expect_complaint("{{ " + sum + " }}", {"more than 2000 tokens"});
  std::string blocks;
  for (int depth = 0; depth < 10000; ++depth) {
    blocks += "{% if true %}";
  }
  expect_complaint(blocks, {"nested too deeply"});
  expect_complaint("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", {"calls itself too deeply"});
  expect_complaint("{{ range(1000000) }}", {"more than 100000"});
  expect_complaint("{{ 9000000000000000000 + 9 }}", {"too large"});
  expect_complaint("{{ 900000000000000000 * 900000000000000000 }}", {"64-bit"});
  expect_complaint("{{ 1 // 0 }}{{ 1 % 0 }}", {"division by zero"});
  expect_complaint("{{ " + std::string(400, '9') + ".0 }}", {"out of range"});
  expect_complaint("{{ '\xff' | tojson }}", {"UTF-8"});
}

TEST(Jinja, TheSmallestIntegerHasAModulo) {
  EXPECT_EQ(render("{{ (-922337203685477580 * 10 - 8) % 3 }}"), "1");
  EXPECT_EQ(render("{{ (-922337203685477580 * 10 - 8) // 3 }}"), "-3074457345618258603");
}

// The text of `count` copies of `part`.
std::string repeated(std::string_view part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += part;
  }
  return text;
}

TEST(Jinja, HostileValuesEndInAnError) {
  const std::string doubled =
      "{% set n = namespace(x='ab') %}" + repeated("{% set n.x = n.x + n.x %}", 20);
  expect_complaint(doubled + repeated("{% set n.x = n.x + n.x %}", 20), {"a value of more than"});
  expect_complaint(doubled + "{{ n.x | replace('a', n.x) }}", {"a value of more than"});
  expect_complaint(doubled + "{{ n.x | join(n.x) }}", {"a value of more than"});
  expect_complaint(doubled + "{{ " + repeated("n.x ~ ", 100) + "n.x }}", {"a value of more than"});
  expect_complaint(
      "{% set n = namespace(x=[]) %}{% for i in range(100000) %}"
      "{% set n.x = [n.x] %}{% endfor %}",
      {"nested too deeply"});
}

TEST(Jinja, HostileLoopsEndInAnError) {
  const std::string loop = "{% for i in range(100000) %}";
  expect_complaint(repeated(loop, 3) + repeated("{% endfor %}", 3), {"more work"});
  expect_complaint(repeated(loop, 2) + std::string(10000, 'x') + repeated("{% endfor %}", 2),
                   {"more work"});
}

TEST(Jinja, HostileRecursionEndsInAnError) {
  expect_complaint("{% macro f() %}{{ f()" + repeated(" + ''", 900) + " }}{% endmacro %}{{ f() }}",
                   {"nested too deeply"});
  expect_complaint("{% macro f() %}" + repeated("{% if true %}", 190) + "{{ f() }}" +
                       repeated("{% endif %}", 190) + "{% endmacro %}{{ f() }}",
                   {"nested too deeply"});
}

// They would hold one another and never be freed.
TEST(Jinja, NamespacesHoldNoNamespaces) {
  expect_complaint("{% set n = namespace() %}{% set n.x = n %}", {"namespace inside"});
  expect_complaint("{% set n = namespace() %}{% set m = namespace(n=n) %}", {"namespace inside"});
}

}  // namespace
}  // namespace bipo::jinja
