// The benchmark's figures against arithmetic done by hand, its JSON, and its made-up pairs.
#include "launcher/bench/bench_report.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "launcher/bench/machine_peak.hpp"
#include "launcher/bench/sample_pairs.hpp"
#include "tests/support/errors.hpp"
#include "trainer/model/architecture/shapes.hpp"

namespace bipo {
namespace {

BenchReport sample_report() {
  BenchReport report;
  report.model = "smollm2-135m";
  report.blocks = 30;
  report.layer = 15;
  report.dtype = "fp32";
  report.device = "cpu";
  report.batch_size = 4;
  report.micro_batch = 4;
  report.step_seconds = {0.5, 0.25, 4};
  report.tokens_per_step = 400;
  report.answers_per_step = 96;
  report.floor_flops_per_step = 1e11;
  report.peak_flops = 4e11;
  report.copy_bytes_per_second = 1e10;
  report.free_memory_bytes = 3000;
  report.breakdown = {.products = 0.3,
                      .attention = 0.05,
                      .head = 0.05,
                      .elementwise = 0.04,
                      .collectives = 0.01,
                      .other = 0.05};
  report.speed = typical_cpu(4e11, 1e10);
  report.speed.attention_share = 0.125;
  return report;
}

TEST(BenchReport, MedianOfOddAndEvenCounts) {
  BenchReport report = sample_report();
  EXPECT_DOUBLE_EQ(report.median_step_seconds(), 0.5);
  report.step_seconds = {1, 4, 2, 10};
  EXPECT_DOUBLE_EQ(report.median_step_seconds(), 3);
}

TEST(BenchReport, JsonHoldsRatesOfTheMedianStep) {
  const auto json = nlohmann::json::parse(bench_json(sample_report()));
  EXPECT_DOUBLE_EQ(json["seconds_per_step"], 0.5);
  EXPECT_DOUBLE_EQ(json["pairs_per_second"], 8);
  EXPECT_DOUBLE_EQ(json["tokens_per_second"], 800);
  EXPECT_DOUBLE_EQ(json["achieved_flops"], 2e11);
  EXPECT_DOUBLE_EQ(json["fraction_of_peak"], 0.5);
  EXPECT_DOUBLE_EQ(json["breakdown"]["products"], 0.3);
  EXPECT_DOUBLE_EQ(json["breakdown"]["other"], 0.05);
  for (const char* key :
       {"floor_flops_per_step", "peak_flops", "copy_bytes_per_second", "peak_memory_bytes",
        "weight_bytes", "cache_bytes", "prefix_seconds", "model", "layer", "dtype", "device", "dp",
        "tp", "threads", "batch_size", "micro_batch"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
}

TEST(BenchReport, NamesTheRecurrenceOfModelsThatHaveOne) {
  BenchReport report = sample_report();
  EXPECT_FALSE(nlohmann::json::parse(bench_json(report))["breakdown"].contains("recurrence"));
  report.breakdown.recurrence = 0.125;
  EXPECT_DOUBLE_EQ(nlohmann::json::parse(bench_json(report))["breakdown"]["recurrence"], 0.125);
  EXPECT_NE(bench_text(report).find("recurrence 20 %"), std::string::npos);
}

TEST(BenchReport, APlanReadsWhatOlderVersionsWrote) {
  auto json = nlohmann::json::parse(bench_json(sample_report()));
  json["speed"].erase("recurrence_share");
  EXPECT_DOUBLE_EQ(measured_machine(json.dump(), "bench.json").speed.operations, 4e11);
  json["speed"].erase("head_share");
  EXPECT_THROW(measured_machine(json.dump(), "bench.json"), UserError);
}

TEST(BenchReport, TextHoldsTheSameFigures) {
  const std::string text = bench_text(sample_report());
  for (const char* part : {"0.5 s median (0.25 to 4)", "8 /s", "50.0 %", "products 60 %"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " not in\n" << text;
  }
}

TEST(BenchReport, APlanReadsTheMachinesSpeedBack) {
  const MeasuredMachine machine = measured_machine(bench_json(sample_report()), "bench.json");
  EXPECT_EQ(machine.device, "cpu");
  EXPECT_EQ(machine.dtype, "fp32");
  EXPECT_DOUBLE_EQ(machine.memory_bytes, 3000);
  EXPECT_DOUBLE_EQ(machine.speed.operations, 4e11);
  EXPECT_DOUBLE_EQ(machine.speed.attention_share, 0.125);
}

TEST(BenchReport, OtherFilesAreRefusedByName) {
  for (const char* text : {"", "{}", "[1]", R"({"speed": {"operations": "fast"}})"}) {
    SCOPED_TRACE(text);
    testing::expect_parts(
        testing::error_of<UserError>([&] { measured_machine(text, "other.json"); }),
        {"--measured other.json"});
  }
}

TEST(MadeUpPairs, HaveTheLengthsAskedFor) {
  const ModelConfig config = read_shape("smollm2-135m");
  const std::vector<TokenPair> pairs = make_pairs({30, 7, 11}, 20, config);
  ASSERT_EQ(pairs.size(), 20U);
  for (const TokenPair& pair : pairs) {
    EXPECT_EQ(pair.prompt.size(), 30U);
    EXPECT_EQ(pair.chosen.size(), 7U);
    EXPECT_EQ(pair.rejected.size(), 7U);
    EXPECT_NE(pair.chosen.front(), pair.rejected.front());
    for (const auto* part : {&pair.prompt, &pair.chosen, &pair.rejected}) {
      for (const TokenId id : *part) {
        EXPECT_TRUE(id >= 0 && id < config.vocabulary);
      }
    }
  }
  EXPECT_TRUE(
      std::equal(pairs[0].prompt.begin(), pairs[0].prompt.begin() + 11, pairs[19].prompt.begin()));
  EXPECT_NE(pairs[0].prompt[11], pairs[1].prompt[11]);
}

TEST(MadeUpPairs, MustFitTheContext) {
  ModelConfig config = read_shape("smollm2-135m");
  config.context = 36;
  EXPECT_THROW(make_pairs({30, 7, 11}, 1, config), UserError);
  EXPECT_NO_THROW(make_pairs({29, 7, 11}, 1, config));
}

TEST(ChosenModel, LayerMustBeOneOfItsBlocks) {
  EXPECT_NO_THROW(read_chosen_config({{}, "llama-2-7b"}, 31));
  EXPECT_THROW(read_chosen_config({{}, "llama-2-7b"}, 32), UserError);
}

TEST(MachinePeak, MemoryIsSeenAndForgotten) {
  const c10::Device cpu(c10::kCPU);
  constexpr std::size_t kSize = std::size_t{200} << 20;
  reset_peak_memory(cpu);
  const std::uint64_t before = peak_memory_bytes(cpu);
  { const std::vector<char> large(kSize, 1); }
  const auto grown = static_cast<double>(peak_memory_bytes(cpu) - before);
  // AddressSanitizer keeps a byte of its own for every eight.
#if defined(__SANITIZE_ADDRESS__)
  constexpr double kHeld = kSize * 9.0 / 8;
#else
  constexpr double kHeld = kSize;
#endif
  // The kernel counts pages in batches per thread.
  EXPECT_NEAR(grown, kHeld, 0.1 * kHeld);
}

TEST(MachinePeak, RatesAreThoseOfAMachine) {
  const c10::Device cpu(c10::kCPU);
  const double products =
      measure_product_rate(read_shape("smollm2-135m"), 1, 0, 64, c10::kFloat, cpu);
  EXPECT_GT(products, 1e8);
  EXPECT_LT(products, 1e15);
  const double copy = measure_copy_rate(cpu);
  EXPECT_GT(copy, 1e8);
  EXPECT_LT(copy, 1e13);
}

}  // namespace
}  // namespace bipo
