// Describes the settings of the commands, each once, in the order of the help.
//
// The fields refer to the settings that a function gets, which must outlive them.  The help shows
// the values that the settings hold now as the defaults.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "experiments/settings/field.hpp"
#include "experiments/settings/settings.hpp"

namespace bipo {

// Fields that several commands share.
Field model_field(std::filesystem::path& model);
Field adapter_field(std::filesystem::path& adapter);
Field check_weights_field(bool& check_weights);
Field layer_field(SteeredLayers& layer);
Field site_field(Site& site, const char* what = "what of a block is steered");
Field overwrite_field(bool& overwrite, const char* what = "replace an existing --out");
Field config_field();
Field json_field(bool& json, const char* what = "print one JSON object instead of text");
Field batch_size_field(std::int64_t& batch_size);
Field micro_batch_field(std::optional<std::int64_t>& micro_batch,
                        const char* automatic = "auto: batch / dp");
Field epochs_field(std::int64_t& epochs);
Field max_steps_field(std::int64_t& max_steps);
Field patience_field(std::int64_t& patience);
Field log_field(std::filesystem::path& log, const char* value, const char* what);
Field lr_unit_field(LrUnit& lr_unit);
Field objective_field(ObjectiveKind& objective);
Field shuffle_field(bool& shuffle);
Field dtype_field(Dtype& dtype);
Field cache_dtype_field(Dtype& dtype);
Field preset_field();
Field start_field(RandomStart& start);
Field positions_field(SteeredPositions& positions);
Field steer_bos_field(bool& steer_bos);
Field norm_field(NormChoice& norm);
Field schedule_field(Schedule& schedule);
Field factors_field(FactorChoice& factors);
std::vector<Field> learned_factor_fields(TrainingOptions& options);
Field rank_field(std::int64_t& rank);
std::vector<Field> decay_fields(TrainingOptions& options);
std::vector<Field> warmup_fields(TrainingOptions& options);
std::vector<Field> evaluation_fields(std::vector<double>& multipliers, std::int64_t& eval_every);
Field attention_field(Attention& attention);
std::vector<Field> machine_fields(MachineOptions& options,
                                  const char* automatic_dp = "auto: ranks / tp");
Field graphs_field(CudaGraphs& graphs);
std::vector<Field> cache_fields(CacheOptions& options);
std::vector<Field> report_fields(ReportOptions& options);
FieldGroup evaluation_and_saving_group(TrainingOptions& options);
FieldGroup text_group(TextOptions& options);

// Which of the two files of pairs a command reads.
enum class PairFiles { kTrain, kTest, kBoth };
FieldGroup data_group(DataOptions& options, PairFiles files);

// All fields of one command.
std::vector<FieldGroup> train_fields(TrainOptions& options);
std::vector<FieldGroup> extract_fields(ExtractOptions& options);
std::vector<FieldGroup> generate_fields(GenerateOptions& options);
std::vector<FieldGroup> evaluate_fields(EvaluateOptions& options);

}  // namespace bipo
