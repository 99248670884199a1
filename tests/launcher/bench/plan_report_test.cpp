// Plans against sums done by hand, and the arrangement against the constraint it must keep.
#include "trainer/cost/run_plan.hpp"

#include <gtest/gtest.h>

#include <set>

#include "collectives/foundation/errors.hpp"
#include "launcher/bench/plan_report.hpp"
#include "trainer/cost/machine_table.hpp"
#include "trainer/model/architecture/shapes.hpp"

namespace bipo {
namespace {

PlanRequest request_for(const std::string& shape, std::int64_t layer, std::int64_t devices) {
  const MachineEntry& entry = machine_entry("h100");
  PlanRequest request;
  request.model = shape;
  request.config = read_shape(shape);
  request.layer = layer;
  request.pair = uniform_pair(80, 12, 18);
  request.train_pairs = 642;
  request.test_pairs = 100;
  request.multipliers = 2;
  request.epochs = 20;
  request.dtype = "bf16";
  request.bytes = element_bytes(true, false, false, false);
  request.machine = {.name = "h100",
                     .source = entry.source,
                     .cuda = true,
                     .devices = devices,
                     .memory_bytes = entry.memory_bytes,
                     .speed = typical_gpu(entry.bf16_flops, entry.memory_bytes_per_second,
                                          entry.link_bytes_per_second)};
  return request;
}

TEST(RunPlan, CountsStepsEvaluationsAndCells) {
  PlanRequest request = request_for("llama-2-7b", 15, 1);
  request.cells = 10;
  request.epochs = 5;
  request.eval_every = 2;
  const RunPlan plan = make_plan(request);
  EXPECT_EQ(plan.steps, 5 * 161);  // 642 pairs are 160 batches of 4 and one of 2
  EXPECT_DOUBLE_EQ(plan.training_seconds, 805 * plan.step.total());
  // After epochs 2 and 4, and at the end, at two multipliers each.
  const double one = evaluation_seconds(request.config, plan.shape, request.machine.speed, 100);
  EXPECT_DOUBLE_EQ(plan.evaluation_seconds, 6 * one);
  EXPECT_DOUBLE_EQ(plan.run_seconds,
                   plan.prefix_seconds + plan.training_seconds + plan.evaluation_seconds);
  EXPECT_DOUBLE_EQ(plan.sweep_seconds - plan.prefix_seconds,
                   10 * (plan.run_seconds - plan.prefix_seconds));
  request.eval_every = 0;
  EXPECT_EQ(make_plan(request).evaluation_seconds, 0);
}

// 200 steps are one epoch of 161 and 39 of the second, after which it is evaluated, too.
TEST(RunPlan, AMaximumOfStepsCutsTheRun) {
  PlanRequest request = request_for("llama-2-7b", 15, 1);
  request.epochs = 5;
  request.max_steps = 200;
  const RunPlan plan = make_plan(request);
  EXPECT_EQ(plan.steps, 200);
  EXPECT_DOUBLE_EQ(plan.training_seconds, 200 * plan.step.total());
  const double one = evaluation_seconds(request.config, plan.shape, request.machine.speed, 100);
  EXPECT_DOUBLE_EQ(plan.evaluation_seconds, 4 * one);
  EXPECT_NE(plan_text(request, plan).find("run of 200 steps"), std::string::npos);
  request.max_steps = 806;  // one more than there are
  EXPECT_EQ(make_plan(request).steps, 805);
  EXPECT_NE(plan_text(request, make_plan(request)).find("run of 5 epochs"), std::string::npos);
}

TEST(RunPlan, BothDirectionsAreTwicePassesOfABatch) {
  PlanRequest request = request_for("llama-2-7b", 15, 1);
  request.micro_batch = 4;
  const RunPlan once = make_plan(request);
  request.passes = 2;
  const RunPlan twice = make_plan(request);
  request.passes = 1;
  request.batch_size = 8;
  EXPECT_DOUBLE_EQ(twice.step.total(), make_plan(request).step.total());
  EXPECT_GT(twice.step.total(), once.step.total());
  EXPECT_EQ(twice.steps, once.steps);
  // A micro-batch has its pairs in both.
  EXPECT_NEAR(twice.memory.activations / once.memory.activations, 2, 0.3);
}

TEST(RunPlan, ASmallModelNeedsNoTensorParallelism) {
  const RunPlan plan = make_plan(request_for("llama-2-7b", 15, 4));
  EXPECT_TRUE(plan.fits);
  EXPECT_EQ(plan.shape.tp * plan.shape.dp, 4);
  // 16 blocks of 202.4 M parameters and the head of 131 M, 2 bytes each.
  EXPECT_NEAR(plan.memory.suffix, 16 * 202.4e6 * 2 / static_cast<double>(plan.shape.tp), 1e7);
  EXPECT_NEAR(plan.memory.head, 131e6 * 2 / static_cast<double>(plan.shape.tp), 1e6);
}

TEST(RunPlan, ALargeModelIsSplitUntilItFits) {
  // 39 blocks of 855.6 M parameters in bf16 are 66.7 GB, and the head 2.1 GB: not on one device of
  // 80 GB beside what the prefix pass or the activations take, but on two.
  PlanRequest one = request_for("llama-3.1-70b", 40, 1);
  one.train_pairs = 20000;
  const RunPlan alone = make_plan(one);
  EXPECT_NEAR(alone.memory.suffix, 39 * 855.6e6 * 2, 1e9);
  PlanRequest early = request_for("llama-3.1-70b", 10, 1);  // 69 blocks, 118 GB
  EXPECT_FALSE(make_plan(early).fits);
  early.machine.devices = 8;
  const RunPlan split = make_plan(early);
  EXPECT_TRUE(split.fits);
  EXPECT_GE(split.shape.tp, 2);
  EXPECT_LE(split.peak_bytes, 80e9);
}

// A small model's kernels are over before the host has asked for the next ones.
TEST(RunPlan, RecordsMicroBatchesWhereTheHostIsTheSlower) {
  PlanRequest small = request_for("smollm2-135m", 15, 1);
  const RunPlan recorded = make_plan(small);
  EXPECT_TRUE(recorded.shape.graphs);
  EXPECT_DOUBLE_EQ(recorded.memory.graphs, recorded.memory.activations);
  EXPECT_NE(plan_text(small, recorded).find("CUDA graphs"), std::string::npos);
  small.graphs = GraphUse::kNone;
  const RunPlan unrecorded = make_plan(small);
  EXPECT_EQ(unrecorded.memory.graphs, 0);
  EXPECT_LT(recorded.step.other, unrecorded.step.other);
  EXPECT_GT(recorded.memory.activations, unrecorded.memory.activations);
  small.graphs = GraphUse::kWhereTheyPay;
  small.tp = 1;
  small.machine.devices = 3;
  EXPECT_TRUE(make_plan(small).shape.graphs);

  PlanRequest large = request_for("llama-2-7b", 15, 1);
  large.batch_size = 32;
  large.micro_batch = 32;
  EXPECT_FALSE(make_plan(large).shape.graphs);
  EXPECT_EQ(plan_text(large, make_plan(large)).find("CUDA graphs"), std::string::npos);
  large.graphs = GraphUse::kWherePossible;
  const RunPlan asked = make_plan(large);
  EXPECT_TRUE(asked.shape.graphs);
  EXPECT_DOUBLE_EQ(asked.memory.graphs, asked.memory.activations);
  large.tp = 2;
  large.machine.devices = 2;
  EXPECT_FALSE(make_plan(large).shape.graphs);
}

// As training does, which refuses a micro-batch for its own work alone.
TEST(RunPlan, GraphsWithoutRoomAreLeftOut) {
  PlanRequest request = request_for("llama-2-7b", 15, 1);
  request.batch_size = 32;
  request.micro_batch = 32;
  request.graphs = GraphUse::kWherePossible;
  request.machine.memory_bytes = make_plan(request).peak_bytes;  // of which a part is usable
  const RunPlan plan = make_plan(request);
  EXPECT_TRUE(plan.fits);
  EXPECT_FALSE(plan.shape.graphs);
  EXPECT_EQ(plan.memory.graphs, 0);
  EXPECT_NE(plan_text(request, plan).find("none: no room"), std::string::npos);
  request.graphs = GraphUse::kNone;
  EXPECT_EQ(make_plan(request).peak_bytes, plan.peak_bytes);
  EXPECT_EQ(plan_text(request, make_plan(request)).find("no room"), std::string::npos);
}

TEST(RunPlan, KeepsWhatIsGiven) {
  PlanRequest request = request_for("llama-3.1-8b", 20, 8);
  request.tp = 4;
  request.micro_batch = 3;
  const RunPlan plan = make_plan(request);
  EXPECT_EQ(plan.shape.tp, 4);
  EXPECT_EQ(plan.shape.dp, 2);
  EXPECT_EQ(plan.shape.micro_pairs, 3);
  request.tp = 64;
  EXPECT_THROW(make_plan(request), UserError);
}

TEST(RunPlan, IsToldInFull) {
  PlanRequest request = request_for("llama-3.1-70b", 40, 8);
  request.cells = 12;
  const RunPlan plan = make_plan(request);
  const std::string text = plan_text(request, plan);
  for (const char* part :
       {"llama-3.1-70b: 70.55 G parameters", "8 x h100", "data sheet", "--tp ",
        "weights of blocks 41..79", "prefix pass", "sweep of 12 cells", "device hours"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " not in\n" << text;
  }
  const std::string json = plan_json(request, plan);
  EXPECT_NE(json.find("\"fits\": true"), std::string::npos);
  EXPECT_NE(json.find("\"steps\": 3220"), std::string::npos);
}

TEST(RunPlan, ReplicasStayWithinANode) {
  PlanRequest request = request_for("llama-3.1-70b", 10, 16);
  request.machine.devices_per_node = 2;
  // 69 blocks of 855.6 M parameters do not fit on fewer than 2 devices.
  const RunPlan plan = make_plan(request);
  EXPECT_TRUE(plan.fits);
  EXPECT_EQ(plan.shape.tp, 2);
  EXPECT_EQ(plan.shape.dp, 8);
  EXPECT_NE(plan_text(request, plan).find("16 x h100, 2 per node"), std::string::npos);
  EXPECT_NE(plan_json(request, plan).find("\"devices_per_node\": 2"), std::string::npos);
}

TEST(RunPlan, SaysWhatToDoWhereNothingFits) {
  PlanRequest request = request_for("llama-3.1-70b", 10, 1);
  const std::string text = plan_text(request, make_plan(request));
  EXPECT_NE(text.find("does not fit"), std::string::npos);
  EXPECT_NE(text.find("use more --devices"), std::string::npos);
  EXPECT_EQ(text.find("lower --micro-batch"), std::string::npos);
  // A job's ranks are as many as there are.
  request.has_started = true;
  request.micro_batch = 4;
  const std::string of_job = plan_text(request, make_plan(request));
  EXPECT_NE(of_job.find("use more ranks, a higher --layer, a lower --micro-batch"),
            std::string::npos);
  EXPECT_EQ(of_job.find("--devices"), std::string::npos);
}

TEST(MachineTable, IsInOneOrderOfMagnitudeAndSourced) {
  std::set<std::string> names;
  for (const MachineEntry& entry : machine_table()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_GT(entry.memory_bytes, 20e9) << entry.name;
    EXPECT_LT(entry.memory_bytes, 200e9) << entry.name;
    EXPECT_GT(entry.bf16_flops, entry.fp32_flops) << entry.name;
    EXPECT_GT(entry.bf16_flops, 100e12) << entry.name;
    EXPECT_LT(entry.bf16_flops, 2000e12) << entry.name;
    EXPECT_GT(entry.memory_bytes_per_second, 250e9) << entry.name;
    EXPECT_FALSE(entry.source.empty()) << entry.name;
  }
  EXPECT_THROW(machine_entry("abacus"), BugError);
}

}  // namespace
}  // namespace bipo
