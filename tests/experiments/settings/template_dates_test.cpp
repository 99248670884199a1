// The day that templates print: of new runs, of continued ones, of sweeps.
#include "experiments/settings/template_dates.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace bipo {
namespace {

using Json = nlohmann::ordered_json;

TemplateDate date(const std::string& day, bool given) {
  return {parse_iso_date(day).value(), given};
}

std::string text(const std::optional<TemplateDate>& found) {
  return found ? iso_text(found->day) + (found->given ? " given" : "") : "none";
}

constexpr const char* kNow = "2026-01-02T23:59:59Z";

TEST(TemplateDates, ANewRunPrintsTheUsersDayElseItsFirst) {
  EXPECT_EQ(text(choose_template_date(std::nullopt, std::nullopt, kNow)), "2026-01-02");
  EXPECT_EQ(text(choose_template_date(date("2020-02-29", true), std::nullopt, kNow)),
            "2020-02-29 given");
}

TEST(TemplateDates, AContinuedRunKeepsItsDayUnlessAnotherIsNamed) {
  const TemplateDate stored = date("2025-12-31", false);
  EXPECT_EQ(text(choose_template_date(std::nullopt, stored, kNow)), "2025-12-31");
  EXPECT_EQ(text(choose_template_date(date("2025-12-31", true), stored, kNow)), "2025-12-31");
  EXPECT_EQ(text(choose_template_date(date("2020-02-29", true), stored, kNow)), "2020-02-29 given");
  EXPECT_EQ(text(choose_template_date(std::nullopt, date("2020-02-29", true), kNow)),
            "2020-02-29 given");
}

TEST(TemplateDates, AreStoredWithTheSettings) {
  for (const auto& stored :
       {std::optional(date("2020-02-29", true)), std::optional(date("2020-02-29", false)),
        std::optional<TemplateDate>()}) {
    Json settings = Json::object();
    store_template_date(stored, settings);
    EXPECT_EQ(text(stored_template_date(settings.dump())), text(stored));
  }
  for (const char* settings :
       {"{}", "", "[]", R"({"template_date": 5})", R"({"template_date": "soon"})"}) {
    EXPECT_EQ(text(stored_template_date(settings)), "none") << settings;
  }
}

// Plans as a sweep writes them: what all inputs share stands once, what differs with each.
TEST(TemplateDates, AreFoundInThePlanOfASweep) {
  EXPECT_EQ(text(template_date_of_plan(
                R"({"settings": {"template_date": "2020-02-29", "template_date_given": false,
                    "inputs": [{"model": "a"}]}})")),
            "2020-02-29");
  EXPECT_EQ(text(template_date_of_plan(
                R"({"settings": {"inputs": [
                    {"model": "a", "template_date": "", "template_date_given": false},
                    {"model": "b", "template_date": "2020-02-29", "template_date_given": true}]}})")),
            "2020-02-29 given");
  EXPECT_EQ(text(template_date_of_plan(
                R"({"settings": {"template_date_given": false, "inputs": [
                    {"model": "a", "template_date": ""}, {"model": "b", "template_date": "2020-02-29"}]}})")),
            "2020-02-29");
  for (const char* plan : {"", "[]", R"({"settings": []})", R"({"settings": {"inputs": 3}})",
                           R"({"settings": {"template_date": "", "inputs": [1]}})"}) {
    EXPECT_EQ(text(template_date_of_plan(plan)), "none") << plan;
  }
}

}  // namespace
}  // namespace bipo
