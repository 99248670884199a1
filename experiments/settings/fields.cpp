#include "experiments/settings/fields.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "collectives/foundation/errors.hpp"
#include "datasets/template/chat_template.hpp"
#include "experiments/settings/stored_settings.hpp"
#include "trainer/model/hub/hub_cache.hpp"

namespace bipo {
namespace {

constexpr const char* kPositionsValues = "all|answer|prompt|ENDS";
constexpr const char* kPositionsMeaning =
    "all, the answers', the prompt's, or ENDS, first:P,last:S, its first P and last S; the "
    "prompt's last token predicts the answer's first";
constexpr const char* kSteerBosMeaning =
    "whether a prompt's begin-of-sequence token is steered and counts for --positions";

Field list_field(std::string name, std::string description, std::vector<double>& target) {
  return field(std::move(name), "LIST", std::move(description), target, parse_real_list);
}

Field seed_field(std::uint64_t& seed, const char* description) {
  return field("seed", "N", description, seed, parse_unsigned);
}

Field beta_field(double& beta, const char* description) {
  return field("beta", "X", description, beta, real(RealRange::kPositive));
}

// Files hold what belongs to another objective than BiPO's own form.
std::vector<Field> objective_fields(TrainOptions& o) {
  Field gamma = field("simpo-gamma", "X", "margin that --objective simpo wants above 0",
                      o.simpo_gamma, real(RealRange::kNonNegative));
  gamma.is_omitted = [&o] { return o.objective != ObjectiveKind::kSimpo; };
  gamma.text = [&o] {
    return o.objective == ObjectiveKind::kSimpo ? shown_value(o.simpo_gamma) : "(simpo only)";
  };
  const auto own = [&o] { return o.reduction.value_or(own_reduction(o.objective)); };
  Field reduction =
      automatic_or("reduction", "sum|mean",
                   "how the log-probabilities of an answer's tokens become one number", o.reduction,
                   "auto: mean for ipo, simpo, sft and reps, else sum",
                   [](const std::string& text) {
                     return parse_reduction(parse_name(text, reduction_names()));
                   })
          .with_values({"sum", "mean", "auto"});
  reduction.is_omitted = [&o, own] {
    return o.objective == ObjectiveKind::kBipo && own() == Reduction::kSum;
  };
  reduction.value = [own] { return stored_value(own()); };
  reduction.text = [own] { return shown_value(own()); };
  return {objective_field(o.objective), beta_field(o.beta, "sharpness of the preference loss"),
          field("label-smoothing", "X",
                "share of pairs that are taken to be labelled the wrong way round",
                o.label_smoothing, [](const std::string& text) { return parse_smoothing(text); })
              .omitted_at(o.label_smoothing, 0.0),
          std::move(gamma), std::move(reduction)};
}

// Files hold it where there is such a factor.
Field of_learned_factor(const TrainingOptions& o, Field made) {
  made.is_omitted = [&o] { return !o.factors.is_learned; };
  made.text = [&o, shown = made.text] {
    return o.factors.is_learned ? shown() : "(learned factors only)";
  };
  return made;
}

// The vector of a file goes where --continue-from puts it.
Field train_start_field(TrainOptions& o) {
  Field made = start_field(o.start);
  made.value_name += "|FILE[:EPOCH][@W]";
  made.description =
      "vector before the first step: zeros, of length X (as in --norm) in a random direction by "
      "the seed, or that of a run file, as --continue-from takes it";
  made.set = [&o](const std::string& text) {
    const bool names_file = text != "zero" && !text.starts_with("random:");
    o.continue_from = names_file ? parse_vector_choice(text) : VectorChoice();
    o.starts_by_init = names_file;
    o.start = names_file ? RandomStart() : parse_start(text);
  };
  made.text = [&o] {
    return o.continue_from.empty() ? shown_value(o.start) : shown_value(o.continue_from);
  };
  return made;
}

// Version 0.1's rules are no choice: only a run that it has begun has them, stored in its way.
Field bos_field(BosRule& rule) {
  Field made =
      field("bos", "auto|always|never",
            "begin-of-sequence token before a prompt; auto: what the chat template prints, and "
            "before plain text what the tokenizer adds",
            rule, [](const std::string& text) {
              const std::vector<std::string> names = {"auto", "always", "never"};
              const auto at = std::find(names.begin(), names.end(), parse_name(text, names));
              return static_cast<BosRule>(at - names.begin());
            });
  const auto is_earlier = [&rule] {
    return rule == BosRule::kEarlier || rule == BosRule::kEarlierNever;
  };
  made.values = {"auto", "always", "never"};
  made.stored_key = [is_earlier] { return is_earlier() ? "no_bos" : "bos"; };
  made.value = [&rule, is_earlier] {
    return is_earlier() ? stored_value(rule == BosRule::kEarlierNever) : stored_value(rule);
  };
  return made;
}

Field no_bos_field() {
  Field alias{"no-bos", "", "the same as --bos never", {}, {}, {}, {}};
  alias.set = [](const std::string& text) { parse_name(text, {"true", "false"}); };
  alias.stands_for = {"bos", "never", "auto"};
  return std::move(alias).unstored();
}

Field template_arg_field(TemplateArguments& arguments) {
  Field made = field("template-arg", "NAME=JSON",
                     "variable of the chat template: enable_thinking=false; may be given several "
                     "times; a row's own chat_template_kwargs go before it",
                     arguments,
                     [&arguments](const std::string& text) {
                       TemplateArguments all = arguments;
                       auto [name, value] = parse_template_arg(text);
                       if (!all.values.emplace(name, std::move(value)).second) {
                         throw UserError(fmt::format("{} is given a second time", name));
                       }
                       return all;
                     })
                   .with_fallback("none")
                   .omitted_at(arguments, TemplateArguments());
  made.repeats = true;
  return made;
}

std::vector<std::string> chat_template_names() {
  std::vector<std::string> names = ChatTemplate::names();
  names.insert(names.begin(), "auto");
  return names;
}

std::vector<Field> prompt_text_fields(TextOptions& o) {
  return {
      field("system-prompt", "TEXT", "text before the conversation; \"\" sends none",
            o.system_prompt, parse_any_text)
          .with_fallback(fmt::format("\"{}\"", o.system_prompt)),
      field("chat-template", "NAME|FILE",
            fmt::format("how a conversation is laid out: auto (the model's own template), {}, or a "
                        "file with a Jinja template",
                        fmt::join(ChatTemplate::names(), ", ")),
            o.chat_template, parse_some_text)
          .with_values(chat_template_names()),
      field("template-date", "YYYY-MM-DD", "the day that a template prints as today's",
            o.template_date,
            [](const std::string& text) -> std::optional<TemplateDate> {
              return TemplateDate{parse_date(text), /*given=*/true};
            })
          .with_fallback("the run's first day, in UTC"),
      template_arg_field(o.template_args),
      bos_field(o.bos),
      no_bos_field()};
}

Field choose_on_field(std::optional<double>& share) {
  Field made =
      field("choose-on", "SHARE|half",
            "choose a multiplier on this share of the pairs of --test, drawn by --seed, "
            "and report it on the others",
            share,
            [](const std::string& text) -> std::optional<double> { return parse_part(text); })
          .with_fallback("none is chosen")
          .omitted_at(share, std::optional<double>());
  made.text = [&share] { return share ? shown_value(*share) : "none is chosen"; };
  return made;
}

// --vector, which may be given several times.
Field vectors_field(std::string description, std::vector<VectorChoice>& vectors) {
  Field made = field("vector", "FILE[:EPOCH][@W]", std::move(description), vectors,
                     [&vectors](const std::string& text) {
                       std::vector<VectorChoice> all = vectors;
                       all.push_back(parse_vector_choice(text));
                       return all;
                     });
  made.repeats = true;
  return made;
}

// Fields of the commands that apply vectors: model, vectors, multipliers, positions.
std::vector<Field> steering_fields(SteeringOptions& o, const char* multipliers) {
  constexpr const char* kTrained = "as the vectors were trained";
  const auto is_trained = [kTrained](const auto& value) {
    return [&value, kTrained] { return value ? shown_value(*value) : kTrained; };
  };
  Field positions =
      field("positions", kPositionsValues,
            fmt::format("tokens at which vectors act: {}", kPositionsMeaning), o.positions,
            [](const std::string& text) -> std::optional<SteeredPositions> {
              return parse_positions(text);
            })
          .with_fallback(kTrained)
          .with_values({"all", "answer", "prompt"});
  positions.text = is_trained(o.positions);
  Field steer_bos = field("steer-bos", "on|off", kSteerBosMeaning, o.steer_bos,
                          [](const std::string& text) -> std::optional<bool> {
                            return parse_name(text, {"on", "off"}) == "on";
                          })
                        .with_fallback(kTrained)
                        .with_values({"on", "off"});
  steer_bos.text = is_trained(o.steer_bos);
  steer_bos.is_omitted = [&o] { return o.steer_bos.value_or(true); };
  Field gate = field("gate", "FILE[:EPOCH]:X",
                     "run file whose vector decides: only prompts are steered whose last token's "
                     "component along it, after its layer, is above X",
                     o.gate, parse_gate)
                   .with_fallback("none: all prompts");
  gate.is_omitted = [&o] { return o.gate.vector.empty(); };
  Field intervention =
      field("intervention", "add|null|clamp:X",
            "what a vector does to a token's row, times the multiplier: add it, take the "
            "component along it away, or set that component to X",
            o.intervention, [](const std::string& text) { return parse_intervention(text); })
          .with_values({"add", "null"})
          .omitted_at(o.intervention, Intervention());
  Field vectors = vectors_field(
      "run file whose vector is added, times W (default 1), or conceptor file, with W as its "
      "beta; :best, :last or "
      ":epoch=N (from 1) behind the file choose another epoch than the run did; "
      "may be given several times: vectors add up",
      o.vectors);
  return {model_field(o.model),    adapter_field(o.adapter),
          std::move(vectors),      list_field("multipliers", multipliers, o.multipliers),
          std::move(positions),    std::move(steer_bos),
          std::move(intervention), std::move(gate)};
}

// Files store the snapshot that a name in the Hugging Face cache led to, so that resume finds it.
Field stored_where_it_lies(Field made, const std::filesystem::path& path) {
  made.value = [&path] { return stored_value(resolved_model_path(path)); };
  return made;
}

// Says which option takes what other commands' --layer may have.
std::int64_t parse_layer_of_one(const std::string& text) {
  if (text == "all" || text.find_first_of(",:+") != std::string::npos) {
    throw UserError(
        "must be one whole number, 0 or above; --layers makes a direction for each of several, in "
        "one pass (--out is then a directory)");
  }
  return parse_integer(text, 0);
}

}  // namespace

Field model_field(std::filesystem::path& model) {
  return stored_where_it_lies(
      field("model", "DIR|FILE",
            "Hugging Face model directory or its name in the local Hub cache, or GGUF file", model)
          .placement(),
      model);
}

Field adapter_field(std::filesystem::path& adapter) {
  return stored_where_it_lies(
      field("adapter", "DIR|FILE",
            "LoRA adapter, a PEFT directory or a GGUF file, merged into the model", adapter)
          .with_fallback("none")
          .placement(),
      adapter);
}

Field check_weights_field(bool& check_weights) {
  return flag("check-weights", "look for NaN and infinity in all weights before work begins",
              check_weights)
      .unstored();
}

Field layer_field(SteeredLayers& layer) {
  return field("layer", "N[,N...]",
               "block, from 0, that is steered; several: a vector for each, trained jointly", layer,
               parse_layers)
      .required();
}

Field site_field(Site& site, const char* what) {
  return choice("site",
                fmt::format("{}: its output, or what its MLP returns, before a norm behind it and "
                            "before it is added to the residual stream",
                            what),
                site)
      .omitted_at(site, Site::kBlock);
}

Field overwrite_field(bool& overwrite, const char* what) {
  return flag("overwrite", what, overwrite).unstored();
}

Field config_field() {
  Field config{"config", "FILE", "INI file with any of these options", {}, {}, {}, {}};
  config.set = [](const std::string&) {};  // the parser itself reads it
  return std::move(config).unstored();
}

Field json_field(bool& json, const char* what) {
  return flag("json", what, json).unstored();
}

Field batch_size_field(std::int64_t& batch_size) {
  return field("batch-size", "N", "pairs per optimiser step", batch_size, at_least(1));
}

Field micro_batch_field(std::optional<std::int64_t>& micro_batch, const char* automatic) {
  return automatic_or("micro-batch", "N", "pairs per pass through the model", micro_batch,
                      automatic, at_least(1));
}

Field epochs_field(std::int64_t& epochs) {
  return field("epochs", "N", "passes over the training pairs", epochs, at_least(1));
}

Field max_steps_field(std::int64_t& max_steps) {
  return field("max-steps", "N", "optimiser steps after which training ends", max_steps,
               at_least(0))
      .zero_means("no limit");
}

Field patience_field(std::int64_t& patience) {
  return field("patience", "N", "end after this many evaluations without a larger held-out margin",
               patience, at_least(0))
      .zero_means("never")
      .omitted_at(patience, std::int64_t{0});
}

Field log_field(std::filesystem::path& log, const char* value, const char* what) {
  return field("log-jsonl", value, what, log).with_fallback("none").unstored();
}

Field lr_unit_field(LrUnit& lr_unit) {
  return choice("lr-unit", "what the rate is a multiple of: 1, or the (lowest) layer's median RMS",
                lr_unit);
}

Field objective_field(ObjectiveKind& objective) {
  return choice("objective",
                "what is minimised: BiPO, its one-directional form DPO, IPO, SimPO, the "
                "cross-entropy of the chosen answer (sft), minus log(1 - p) of the rejected one's "
                "tokens (suppress), or RePS, which adds the vector and projects it out (reps, with "
                "--factors); simpo, sft and suppress need no reference",
                objective)
      .omitted_at(objective, ObjectiveKind::kBipo);
}

Field shuffle_field(bool& shuffle) {
  return on_off("shuffle", "new order each epoch", shuffle);
}

Field dtype_field(Dtype& dtype) {
  return choice("dtype", "type of weights and products", dtype);
}

Field cache_dtype_field(Dtype& dtype) {
  return choice("cache-dtype", "type of the cached activations; auto is fp32", dtype);
}

Field preset_field() {
  const std::vector<Field::Setting> paper = {{"epochs", "20", ""},
                                             {"batch-size", "4", ""},
                                             {"lr", "5e-4", ""},
                                             {"lr-unit", "absolute", ""},
                                             {"objective", "bipo", ""},
                                             {"norm", "free", ""},
                                             {"schedule", "cosine", ""},
                                             {"beta", "0.1", ""},
                                             {"weight-decay", "0", ""},
                                             {"max-grad-norm", "1", ""},
                                             {"warmup-steps", "100", "warmup"},
                                             {"sign", "batch", ""},
                                             {"shuffle", "on", ""}};
  std::vector<std::string> shown;
  for (const Field::Setting& setting : paper) {
    shown.push_back(fmt::format("{} {}", setting.option, setting.value));
  }
  Field made{"preset",
             "NAME",
             fmt::format("settings by a name, before which those that are given go; paper: the "
                         "paper's own, {}",
                         fmt::join(shown, ", ")),
             {},
             {},
             {},
             {}};
  made.set = [](const std::string& text) { parse_name(text, {"paper"}); };
  made.presets = {{"paper", paper}};
  return std::move(made).unstored();
}

Field start_field(RandomStart& start) {
  return field("init", "zero|random:X",
               "vector before the first step: zeros, or of length X in a random direction by the "
               "seed; X as in --norm",
               start, parse_start)
      .omitted_at(start, RandomStart());
}

// Stored under another name than extract's, whose positions are those that it reads.
Field positions_field(SteeredPositions& positions) {
  Field made =
      field("positions", kPositionsValues,
            fmt::format("tokens at which the vector is added: {}", kPositionsMeaning), positions,
            [&positions](const std::string& text) {
              SteeredPositions parsed = parse_positions(text);
              parsed.left_out_bos = positions.left_out_bos;
              return parsed;
            })
          .with_values({"all", "answer", "prompt"});
  made.is_omitted = [&positions] { return positions.kind == SteeredPositions::Kind::kAll; };
  made.stored_key = [] { return kStoredPositionsKey; };
  return made;
}

Field steer_bos_field(bool& steer_bos) {
  return on_off("steer-bos", kSteerBosMeaning, steer_bos).omitted_at(steer_bos, true);
}

Field norm_field(NormChoice& norm) {
  return field("norm", "free|max:X|fixed:X",
               "length of the vector after every step: as it comes, X at most, or X; a number, or "
               "per cent of the residual stream's median norm (5%)",
               norm, parse_norm)
      .omitted_at(norm, NormChoice());
}

Field schedule_field(Schedule& schedule) {
  return choice("schedule", "the rate after the warm-up: half a cosine or a line to 0, or constant",
                schedule)
      .omitted_at(schedule, Schedule::kCosine);
}

Field factors_field(FactorChoice& factors) {
  return field("factors", "LIST|learned",
               "numbers above 0, of which each pair draws one an epoch to multiply the vector by, "
               "or one that is trained with the vector",
               factors, parse_factors)
      .omitted_at(factors, FactorChoice());
}

std::vector<Field> learned_factor_fields(TrainingOptions& o) {
  return {of_learned_factor(
              o, field("factor-lr", "X", "peak learning rate of --factors learned, absolute",
                       o.factor_lr, real(RealRange::kPositive))),
          of_learned_factor(o, field("factor-init", "X", "where --factors learned begins",
                                     o.factor_init, real(RealRange::kPositive)))};
}

// Files need not say what can have one value only.
Field rank_field(std::int64_t& rank) {
  return field("rank", "N",
               "directions of what is added at a layer: 1, because several added vectors are one",
               rank, parse_rank)
      .unstored();
}

std::vector<Field> warmup_fields(TrainingOptions& o) {
  return {
      automatic_or("warmup", "SHARE|N",
                   "linear warm-up before that, as a share of the steps (0.1) or as "
                   "steps, which are always fewer than the run's",
                   o.warmup, "auto: 0.1", parse_warmup)
          .unstored(),
      automatic_or("warmup-steps", "N", "the same in steps, even if they are more than the run's",
                   o.warmup_steps, "auto: see --warmup", at_least(0))};
}

std::vector<Field> decay_fields(TrainingOptions& o) {
  return {field("weight-decay", "X", "decoupled weight decay", o.weight_decay,
                real(RealRange::kNonNegative)),
          field("max-grad-norm", "X", "norm at which the gradient is clipped", o.max_grad_norm,
                real(RealRange::kNonNegative))
              .zero_means("no clipping")};
}

std::vector<Field> evaluation_fields(std::vector<double>& multipliers, std::int64_t& eval_every) {
  return {list_field("multipliers", "factors on the vector in evaluations", multipliers),
          field("eval-every", "N", "epochs between evaluations", eval_every, at_least(0))
              .zero_means("never")};
}

Field attention_field(Attention& attention) {
  return choice(
             "attention",
             "on CUDA in bf16, flash attention over pairs without padding, or attention composed "
             "of products in fp32; auto: flash where GPU and model allow it",
             attention)
      .unstored();
}

std::vector<Field> machine_fields(MachineOptions& o, const char* automatic_dp) {
  return {
      dtype_field(o.dtype),
      choice("device", "where the model is", o.device),
      field("tp", "N", "ranks that share one model", o.tp, at_least(1)),
      automatic_or("dp", "N", "replicas of the model", o.dp, automatic_dp, at_least(1)).placement(),
      automatic_or("threads", "N", "threads per rank", o.threads,
                   "auto: OMP_NUM_THREADS, else a share of the cores", at_least(1))
          .placement(),
      flag("deterministic", "deterministic kernels on CUDA", o.deterministic),
      choice("kernels",
             "on CUDA, norms, rotation and units as kernels of our own, compiled where they run, "
             "or composed of libtorch's; auto: our own where NVRTC is found",
             o.kernels)
          .unstored(),
      attention_field(o.attention),
      field("timeout", "TIME",
            "how long a rank waits for one that makes no progress before the job ends: 90, 90s, "
            "10m, 1h",
            o.timeout, parse_duration)
          .with_fallback("10m")
          .zero_means("for ever")
          .unstored()};
}

Field graphs_field(CudaGraphs& graphs) {
  return choice("cuda-graphs",
                "on CUDA, micro-batches are filled up to a few shapes, and the work of each shape "
                "is asked for by one call once it has come twice; auto: those that are over sooner "
                "than the host can ask for their kernels; off: kernel by kernel",
                graphs)
      .unstored();
}

std::vector<Field> cache_fields(CacheOptions& o) {
  const auto bytes = [](const std::string& text) { return parse_bytes(text); };
  return {
      automatic_or("cache-budget", "SIZE", "bytes per node for cached activations: 512M, 8G",
                   o.cache_budget, "auto", bytes)
          .placement(),
      cache_dtype_field(o.cache_dtype),
      choice("cache-device",
             "where a training on CUDA has them; auto: on the device, in half of what it has left",
             o.cache_device)
          .unstored(),
      field("cache-dir", "DIR",
            "keep the activations of blocks 0..L in files under DIR, so that the next run on "
            "the same model and data starts at once",
            o.cache_dir)
          .with_fallback("none")
          .placement(),
      flag("cache-shared", "trust files in --cache-dir that belong to other users", o.cache_shared)
          .unstored()};
}

std::vector<Field> report_fields(ReportOptions& o) {
  return {choice("progress",
                 "a bar, redrawn in place; lines, for files; or none; auto: a bar where standard "
                 "error is a terminal (under mpirun it never is)",
                 o.progress)
              .unstored(),
          flag("quiet", "print results, warnings and errors only", o.quiet).unstored()};
}

FieldGroup evaluation_and_saving_group(TrainingOptions& o) {
  return {
      "Evaluation and saving",
      evaluation_fields(o.multipliers, o.eval_every) +
          std::vector{choice("select",
                             "vector that the run file ends with: the last step's, or that of the "
                             "epoch with the largest held-out margin at +1 less that at -1",
                             o.select)
                          .omitted_at(o.select, Select::kLast),
                      field("save-every", "S", "seconds between saves within an epoch",
                            o.save_every, real(RealRange::kNonNegative))
                          .placement(),
                      field("rescue-dir", "DIR",
                            "where the last state is kept if --out cannot be written", o.rescue_dir)
                          .with_fallback("the system's folder for temporary files")
                          .unstored()}};
}

FieldGroup text_group(TextOptions& o) {
  return {
      "Text",
      prompt_text_fields(o) +
          std::vector{flag("no-eos", "no end-of-sequence token after an answer", o.no_eos),
                      field("max-length", "N", "most tokens in prompt and answer", o.max_length,
                            at_least(0))
                          .zero_means("the model's context"),
                      choice("train-turns",
                             "turns that count in an answer of several: the assistant's, or all, "
                             "users' too (TRL)",
                             o.train_turns)
                          .omitted_at(o.train_turns, TrainTurns::kAssistant),
                      flag("skip-bad", "skip and count bad rows instead of ending", o.skip_bad)}};
}

// All but --on-duplicate are stored for the record only: the hash of the tokens tells data apart.
FieldGroup data_group(DataOptions& o, PairFiles files) {
  std::vector<Field> fields = {
      field("columns", "LIST",
            "columns of the data files under other names, prompt=question,chosen=best; "
            "NAME= hides one",
            o.columns,
            [](const std::string& text) {
              parse_columns(text);
              return text;
            })
          .with_fallback("as the files name them")
          .omitted_at(o.columns, std::string())
          .placement(),
      choice("answer-pairs",
             "of rows with several right or wrong answers (TruthfulQA): best with best, or "
             "all with all",
             o.answer_pairs)
          .omitted_at(o.answer_pairs, AnswerPairs::kBest)
          .placement()};
  if (files != PairFiles::kTest) {
    fields.push_back(field("max-pairs", "N",
                           "training pairs to take: the file's first, see --data-seed", o.max_pairs,
                           at_least(0))
                         .zero_means("all")
                         .omitted_at(o.max_pairs, std::int64_t{0})
                         .placement());
  }
  if (files != PairFiles::kTrain) {
    fields.push_back(field("max-test-pairs", "N", "held-out pairs to take, likewise",
                           o.max_test_pairs, at_least(0))
                         .zero_means("all")
                         .omitted_at(o.max_test_pairs, std::int64_t{0})
                         .placement());
  }
  Field seed =
      field("data-seed", "N", "shuffle the pairs of a file before the first are taken", o.data_seed,
            [](const std::string& text) -> std::optional<std::uint64_t> {
              return parse_unsigned(text);
            })
          .with_fallback("no shuffle")
          .omitted_at(o.data_seed, std::optional<std::uint64_t>())
          .placement();
  seed.text = [&o] { return o.data_seed ? shown_value(*o.data_seed) : "no shuffle"; };
  fields.push_back(std::move(seed));
  fields.push_back(choice("on-duplicate",
                          "when chosen and rejected are equal, pairs repeat, or train and test "
                          "share some",
                          o.on_duplicate)
                       .unstored());
  return {"Data", std::move(fields)};
}

std::vector<FieldGroup> train_fields(TrainOptions& o) {
  return {
      {"Input and output",
       {model_field(o.model).required(), adapter_field(o.adapter),
        check_weights_field(o.check_weights),
        field("train", "FILE", "training pairs: CSV, TSV, JSON, JSONL, Parquet, Arrow", o.train)
            .required()
            .placement(),
        field("test", "FILE", "held-out pairs, likewise", o.test).with_fallback("none").placement(),
        layer_field(o.layer), site_field(o.site),
        field("out", "FILE", "run file to write", o.out).required().placement(),
        flag("resume", "continue --out from its checkpoint; start anew if there is none", o.resume)
            .unstored(),
        field("continue-from", "FILE[:EPOCH][@W]",
              "start a new run from the vector of this run file, named as --vector names one, "
              "without its optimiser state",
              o.continue_from, parse_vector_choice)
            .with_fallback("zeros")
            .unstored(),
        overwrite_field(o.overwrite),
        flag("dry-run", "show the first pair, the settings, cost and memory; train nothing",
             o.dry_run)
            .unstored(),
        config_field()}},
      {"Training",
       std::vector{preset_field(), epochs_field(o.epochs), max_steps_field(o.max_steps),
                   patience_field(o.patience), batch_size_field(o.batch_size),
                   micro_batch_field(o.micro_batch),
                   field("lr", "X", "peak learning rate", o.lr, real(RealRange::kPositive)),
                   lr_unit_field(o.lr_unit)} +
           objective_fields(o) + decay_fields(o) + std::vector{factors_field(o.factors)} +
           learned_factor_fields(o) +
           std::vector{rank_field(o.rank), norm_field(o.norm), schedule_field(o.schedule)} +
           warmup_fields(o) +
           std::vector{
               train_start_field(o), positions_field(o.positions), steer_bos_field(o.steer_bos),
               choice("sign", "direction per step; --objective dpo has plus only, reps both",
                      o.sign),
               shuffle_field(o.shuffle), seed_field(o.seed, "seed of the order and the signs")}},
      evaluation_and_saving_group(o),
      {"Machine", machine_fields(o) + std::vector{graphs_field(o.cuda_graphs)} + cache_fields(o)},
      {"Progress",
       report_fields(o) +
           std::vector{log_field(o.log_jsonl, "FILE",
                                 "write one JSON object a step to this file, at once, for programs "
                                 "that follow the run")}},
      data_group(o, PairFiles::kBoth),
      text_group(o)};
}

// A setting that files hold, and tables show, only where the method in use is one of `methods`.
Field of_methods(Field made, const ExtractOptions& o, std::vector<ExtractMethod> methods) {
  const auto is_unused = [&o, methods = std::move(methods)] {
    return std::find(methods.begin(), methods.end(), o.method) == methods.end();
  };
  made.is_omitted = is_unused;
  made.text = [is_unused, shown = std::move(made.text)] {
    return is_unused() ? std::string("not used") : shown();
  };
  return made;
}

// A setting of all methods but those that make a conceptor, which has no length.
Field of_directions(Field made, const ExtractOptions& o) {
  made.is_omitted = [&o] { return makes_conceptor(o.method); };
  made.text = [&o, shown = std::move(made.text)] {
    return makes_conceptor(o.method) ? std::string("not used") : shown();
  };
  return made;
}

Field direction_norm_field(ExtractOptions& o) {
  Field made =
      field("norm", "X", "scale the direction to this length", o.norm, real(RealRange::kPositive))
          .with_fallback("as found");
  made.text = [&o, shown = std::move(made.text)] {
    return o.norm > 0 ? shown() : o.match_norm.empty() ? "as found" : "that of --match-norm";
  };
  return of_directions(std::move(made), o);
}

Field probe_c_field(ExtractOptions& o) {
  return of_methods(field("probe-c", "X",
                          "--method probe, confst: weight of the data against the penalty of the "
                          "logistic regression",
                          o.probe_c, real(RealRange::kPositive)),
                    o, {ExtractMethod::kProbe, ExtractMethod::kConfst});
}

Field confidence_field(ExtractOptions& o) {
  return of_methods(field("confidence", "P",
                          "--method confst: least probability, by the logistic regression, of the "
                          "chosen answers that count",
                          o.confidence, real(RealRange::kShare)),
                    o, {ExtractMethod::kConfst});
}

Field aperture_field(ExtractOptions& o) {
  return of_methods(field("aperture", "X",
                          "--method conceptor: how much passes, in residual units: a direction in "
                          "which activations have the mean square s passes s / (s + 1 / X^2)",
                          o.aperture, real(RealRange::kPositive)),
                    o, {ExtractMethod::kConceptor});
}

std::vector<FieldGroup> extract_fields(ExtractOptions& o) {
  Field members = vectors_field(
      "--method ensemble: run file whose vector, times W (default 1), is one of "
      "those that the direction is the mean of; --method conceptor-and, -or, -not: conceptor file; "
      "may be given several times",
      o.vectors);
  members.is_omitted = [&o] { return o.vectors.empty(); };
  constexpr const char* kNeeded = "; needed by all but --method conceptor-and, -or, -not";
  Field model = model_field(o.model);
  model.description += kNeeded;
  return {
      {"Input and output",
       {std::move(model), adapter_field(o.adapter), check_weights_field(o.check_weights),
        field("train", "FILE",
              std::string("preference pairs: CSV, TSV, JSON, JSONL, Parquet, Arrow; for --method "
                          "caa-letter A/B items") +
                  kNeeded,
              o.train)
            .placement(),
        field("layer", "N", "block, from 0, whose activations are read (this or --layers)", o.layer,
              parse_layer_of_one)
            .with_fallback(""),
        field("layers", "LIST",
              "several in one pass: 1,2,5 or 5:25:5 (first:last:step) or all (this or --layer)",
              o.layers, parse_layer_ranges),
        site_field(o.site, "what of a block the activations are"),
        field("out", "FILE|DIR",
              "run file to write; with --layers the directory of run files layerN.h5", o.out)
            .required()
            .placement(),
        overwrite_field(o.overwrite, "replace run files that exist"), config_field()}},
      {"Direction",
       {choice("method", "how the direction is made, see below", o.method), probe_c_field(o),
        confidence_field(o), aperture_field(o),
        field(
            "background", "FILE",
            "--method mean-centring: pairs whose answers, chosen and rejected, are the background",
            o.background)
            .omitted_at(o.background, std::filesystem::path())
            .placement(),
        std::move(members),
        flag("normalise", "--method ensemble: bring each vector to length 1 before W and the mean",
             o.normalise)
            .omitted_at(o.normalise, false),
        direction_norm_field(o),
        of_directions(field("match-norm", "FILE[:EPOCH][@W]",
                            "scale it to the length of the vector of this run file, named as "
                            "--vector names one, times W",
                            o.match_norm, parse_vector_choice)
                          .with_fallback("as found"),
                      o)}},
      {"Machine", machine_fields(o)},
      {"Progress", report_fields(o)},
      data_group(o, PairFiles::kTrain),
      text_group(o)};
}

std::vector<FieldGroup> generate_fields(GenerateOptions& o) {
  std::vector<Field> input = steering_fields(o, "factors on the vectors; 0: the model by itself");
  input.front().is_required = true;
  return {
      {"Input and output",
       std::move(input) +
           std::vector{
               field("prompt", "TEXT", "one question (this or --prompts)", o.prompt,
                     parse_some_text),
               field(
                   "prompts", "FILE",
                   "questions: a text file with one a line, or rows (CSV, JSONL, Parquet ...) with "
                   "question or prompt (a text or messages)",
                   o.prompts),
               field("out", "FILE", "JSONL file to write", o.out)
                   .with_fallback("none: texts go to stdout"),
               overwrite_field(o.overwrite),
               flag("stream", "show the texts of one --prompt side by side as they grow", o.stream),
               config_field()}},
      {"Generation",
       {field("max-new-tokens", "N", "most tokens of an answer", o.max_new_tokens, at_least(1)),
        field("temperature", "X", "temperature of sampling; 0: always the likeliest token",
              o.temperature, real(RealRange::kNonNegative)),
        field("top-k", "N", "sample among the N likeliest tokens; 0: all", o.top_k, at_least(0)),
        field("top-p", "X", "sample among the likeliest tokens that together have this probability",
              o.top_p, real(RealRange::kShare)),
        field("repetition-penalty", "X",
              "divide the logits of tokens that prompt and answer hold already; 1: no penalty",
              o.repetition_penalty, real(RealRange::kPositive)),
        seed_field(o.seed, "seed of sampling"),
        flag("ignore-eos", "continue after end-of-sequence tokens", o.ignore_eos),
        automatic_or("batch-size", "N", "prompts that go through the model together", o.batch_size,
                     "auto: for 64 answers", at_least(1))}},
      {"Machine", machine_fields(o)},
      {"Progress", report_fields(o)},
      {"Text", prompt_text_fields(o)}};
}

std::vector<FieldGroup> evaluate_fields(EvaluateOptions& o) {
  return {
      {"Input and output",
       steering_fields(o, "factors on the vectors, at least two") +
           std::vector{field("out", "FILE", "evaluation file to write", o.out),
                       overwrite_field(o.overwrite, "replace an existing --out or --judge-export"),
                       json_field(o.json, "print the tables as one JSON object instead of text"),
                       config_field()}},
      {"What to measure (at least one)",
       {field("test", "FILE",
              "held-out pairs, CSV, JSONL, Parquet ...: accuracy, margin, propensity curve, "
              "steerability",
              o.test),
        field("choices-ab", "FILE", "A/B questions, CSV or JSONL with question, A, B, matching",
              o.choices_ab),
        field("choices-mc", "FILE", "MC1/MC2 questions, JSONL, also TruthfulQA's own form",
              o.choices_mc),
        field("mmlu", "FILE|DIR",
              "MMLU, SUBJECT_test.csv with SUBJECT_dev.csv beside it, or all of DIR", o.mmlu),
        field("reference-text", "FILE", "plain text, for its perplexity under the steered model",
              o.reference_text),
        field("neutral-prompts", "FILE",
              "questions as generate reads them, for KL(p_0 || p_m) over their token positions",
              o.neutral_prompts),
        field("generations", "FILE",
              "what generate wrote, for its perplexity under the unsteered model, repetition and "
              "refusals",
              o.generations),
        list_field("grid",
                   "multipliers of each of exactly two vectors, all combinations, on --test",
                   o.grid)
            .with_fallback("none")}},
      {"Controls and statistics",
       {field("caa", "FILE[:EPOCH][@W]",
              "run file of a mean difference of the vectors' layer, scaled to W times their norm",
              o.caa, parse_vector_choice)
            .with_fallback("none")
            .unstored(),
        on_off("random-control", "random directions of the vectors' norm at their layers",
               o.random_control),
        field("random", "N",
              "how many random directions; from 10 on the report takes them for a null "
              "distribution; all but the first are measured on --test only",
              o.random, at_least(0))
            .zero_means("none")
            .omitted_at(o.random, std::int64_t{1}),
        choose_on_field(o.choose_on), beta_field(o.beta, "sharpness of the margin"),
        seed_field(o.seed, "seed of the random directions, the choosing pairs and the intervals"),
        field("batch-size", "N", "items that go through the model together", o.batch_size,
              at_least(1))}},
      {"Judges",
       {field("judge-export", "FILE",
              "write requests in the OpenAI batch format, one for each of --generations",
              o.judge_export),
        field("rubric", "FILE",
              "text with {question} and {response}, if wanted also {scale}, and {matching} and "
              "{not_matching}, which --test or --choices-ab give",
              o.rubric),
        field("behaviour", "NAME", "what is judged", o.behaviour, parse_some_text),
        field("judge-model", "NAME", "model that the requests name", o.judge_model,
              parse_some_text),
        field("judge-import", "FILE", "results of such a batch", o.judge_import),
        field("judge-scale", "LOW-HIGH",
              "lowest and highest score: 0-2, 1-10, 0-100; with a decimal point, 0.0-1.0, scores "
              "may have decimals",
              o.judge_scale, parse_judge_scale)}},
      {"Machine", machine_fields(o)},
      {"Progress", report_fields(o)},
      data_group(o, PairFiles::kTest),
      text_group(o)};
}

}  // namespace bipo
