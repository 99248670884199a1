// Defaults of earlier versions, with which a run or a sweep goes on that one of them began.
#pragma once

#include <string>

#include "experiments/settings/settings.hpp"

namespace bipo {

// Sets the learning rate, its unit and the epochs to what they once were by default, each where the
// user did not give it (`options.given`) and the stored `config` of the run holds that value.  Does
// nothing where `config` is no JSON object.
void keep_earlier_defaults(TrainOptions& options, const std::string& config);

// The same for the text of a sweep's plan; empty: there is none yet.
void keep_earlier_defaults(SweepOptions& options, const std::string& plan);

}  // namespace bipo
