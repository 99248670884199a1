// Which turns of an answer count.
#pragma once

namespace bipo {

// In an answer with several turns: the assistant's alone, or all that follows the prompt, as TRL
// 1.16's DPOTrainer takes it.
enum class TrainTurns { kAssistant, kAll };

}  // namespace bipo
