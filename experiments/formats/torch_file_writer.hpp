// Writes vectors as torch.save does, so that torch.load(file, weights_only=True) reads them.
//
// libtorch's own pickle_save() wraps every dictionary into torch.jit._pickle.restore_type_tag,
// which weights_only refuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace bipo {

// D: the vector's length.

// One float32 tensor [D] on the CPU: the form of the vectors that the authors of BiPO published.
std::vector<std::byte> torch_vector_file(std::span<const float> vector);

// What `lm_eval --model steered` reads by steer_path (EleutherAI/lm-evaluation-harness,
// lm_eval/models/hf_steered.py): {"layers.L": {"steering_vector": tensor [D],
// "steering_coefficient": m, "action": "add", "bias": None, "head_index": None}}, by which it adds
// m times the vector to the output of that module of model.base_model at every position.
std::vector<std::byte> lm_eval_file(std::span<const float> vector, std::int64_t layer,
                                    double multiplier);

}  // namespace bipo
