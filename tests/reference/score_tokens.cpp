// Prints what models say of packed token pairs with vectors added to the outputs of their blocks,
// or of the MLPs in them: every token's log-probability, those of the answers, and the gradient of
// the BiPO loss.  Answers one request after the other, each a line of JSON on standard input, with
// tensors and an empty line.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/reference/tensor_stream.hpp"
#include "tests/support/thread_communicator.hpp"
#include "trainer/model/model_files.hpp"
#include "trainer/passes/pair_scores.hpp"
#include "trainer/passes/steering.hpp"

namespace {

using Json = nlohmann::json;

constexpr double kDirection = 1;

struct Case {
  std::string name;
  bipo::SteeredPlace place = 0;
  std::vector<double> vector;  // [D]
};

struct Request {
  std::string model;
  std::vector<bipo::TokenPair> pairs;
  std::vector<std::vector<std::int64_t>> groups;  // pairs that are packed together
  std::vector<Case> cases;
  std::vector<int> tp;
  std::vector<std::string> types;  // "float32", "float64" and "bfloat16"
  double beta = 0;
};

Request read_request(const std::string& line) {
  const Json json = Json::parse(line);
  Request request;
  json.at("model").get_to(request.model);
  for (const Json& pair : json.at("pairs")) {
    request.pairs.push_back({pair.at("prompt").get<std::vector<bipo::TokenId>>(),
                             pair.at("chosen").get<std::vector<bipo::TokenId>>(),
                             pair.at("rejected").get<std::vector<bipo::TokenId>>(), request.model});
  }
  json.at("groups").get_to(request.groups);
  for (const Json& item : json.at("cases")) {
    const bipo::Site site = bipo::parse_site(item.at("site").get<std::string>());
    request.cases.push_back({item.at("name"), {item.at("layer"), site}, item.at("vector")});
  }
  json.at("tp").get_to(request.tp);
  json.at("types").get_to(request.types);
  json.at("beta").get_to(request.beta);
  return request;
}

at::ScalarType scalar_type(const std::string& name) {
  return name == "float64" ? at::kDouble : name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

class Scorer {
 public:
  Scorer(const Request& request, const bipo::Decoder& decoder)
      : request_(request), decoder_(decoder) {}

  // Rows in the order of the pairs, chosen before rejected answers, token by token.
  void print(const std::string& name, const bipo::SteeredPlace& place, const at::Tensor& vector,
             bool is_printing) const {
    const at::Tensor leaf =
        vector.to(decoder_.residual_type()).unsqueeze(0).set_requires_grad(true);
    std::vector<at::Tensor> tables;
    std::vector<double> answers;
    for (const auto& group : request_.groups) {
      const bipo::PackedPairs packed = bipo::pack_alike(request_.pairs, group, decoder_);
      const at::Tensor output = run(packed, place, leaf);
      const bipo::PairScores scores = bipo::score_output(decoder_, packed, output);
      tables.push_back(whole_table(packed, output.detach()));
      for (const bipo::AnswerLogProbs& pair : scores.answers) {
        answers.insert(answers.end(), {pair.chosen, pair.rejected});
      }
      backward(packed, scores, place);
    }
    if (is_printing) {
      bipo::testing::print_tensor(name + "/log_probs", at::cat(tables));
      bipo::testing::print_tensor(name + "/answers",
                                  at::tensor(answers, at::kDouble).view({-1, 2}));
      bipo::testing::print_tensor(name + "/gradient", leaf.grad().squeeze(0));
    }
  }

 private:
  // The last block's output [U, D] at the rows that predict.
  at::Tensor run(const bipo::PackedPairs& packed, const bipo::SteeredPlace& place,
                 const at::Tensor& leaf) const {
    const at::Tensor hidden = bipo::run_prefix(decoder_, packed, place.blocks_before() - 1);
    const at::Tensor coefficients = at::full({1, packed.tokens()}, kDirection, leaf.options());
    const bipo::ResidualStream steered = bipo::run_past_sites(
        {hidden, place.blocks_before()}, {place},
        [&](const at::Tensor& h, const bipo::SteeredPlace&) {
          return bipo::steer(h, coefficients, leaf);
        },
        [&](const at::Tensor& h, bipo::Range blocks, const bipo::ChangeMlpOutput& change) {
          return decoder_.run_blocks(h, blocks, packed.layout, change);
        });
    return decoder_.run_to_answers(steered.hidden, steered.next_block, packed.layout);
  }

  // [R, V]
  at::Tensor whole_table(const bipo::PackedPairs& packed, const at::Tensor& output) const {
    const at::NoGradGuard no_grad;
    const std::int64_t vocabulary = decoder_.config().vocabulary;
    const std::int64_t rows = packed.targets.numel();
    return decoder_
        .next_token_log_probs(output, packed.row_of_target.repeat_interleave(vocabulary),
                              at::arange(vocabulary, at::kLong).repeat({rows}))
        .view({rows, vocabulary});
  }

  // Adds the gradient of this group's share of the mean loss over all pairs.
  void backward(const bipo::PackedPairs& packed, const bipo::PairScores& scores,
                const bipo::SteeredPlace& place) const {
    const at::Tensor zero = at::zeros({1, decoder_.config().hidden}, decoder_.residual_type());
    std::vector<double> loss_by_answer;
    {
      const at::NoGradGuard no_grad;
      const bipo::PairScores reference =
          bipo::score_output(decoder_, packed, run(packed, place, zero));
      for (std::size_t p = 0; p < scores.answers.size(); ++p) {
        const bipo::AnswerLogProbs slope =
            bipo::pair_objective({bipo::ObjectiveKind::kBipo, request_.beta}, scores.answers[p],
                                 reference.answers[p], {}, kDirection)
                .slope;
        const auto count = static_cast<double>(request_.pairs.size());
        loss_by_answer.insert(loss_by_answer.end(), {slope.chosen / count, slope.rejected / count});
      }
    }
    std::vector<double> upstream;
    for (const std::int64_t answer : packed.answer_of_target) {
      upstream.push_back(loss_by_answer[static_cast<std::size_t>(answer)]);
    }
    scores.target_log_probs.backward(
        at::tensor(upstream, at::kDouble).to(scores.target_log_probs.scalar_type()));
  }

  const Request& request_;
  const bipo::Decoder& decoder_;
};

void score(const Request& request, const bipo::ModelFiles& model, const std::string& type,
           bipo::Communicator& tp) {
  bipo::Decoder decoder(model.config, *model.weights, scalar_type(type), at::kCPU, tp);
  decoder.load_embedding();
  decoder.load_blocks({0, model.config.blocks});
  const Scorer scorer(request, decoder);
  for (const Case& item : request.cases) {
    const std::string name = type + "/tp" + std::to_string(tp.size()) + "/" + item.name;
    scorer.print(name, item.place, at::tensor(item.vector, at::kDouble), tp.rank() == 0);
  }
}

void answer(const Request& request) {
  const bipo::ModelFiles model = bipo::open_model(request.model);
  for (const std::string& type : request.types) {
    for (const int tp : request.tp) {
      bipo::run_as_threads(tp,
                           [&](bipo::Communicator& group) { score(request, model, type, group); });
    }
  }
  std::cout << std::endl;
}

}  // namespace

int main() {
  try {
    std::string line;
    while (std::getline(std::cin, line)) {
      answer(read_request(line));
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
