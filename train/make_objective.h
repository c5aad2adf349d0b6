#pragma once

#include <functional>
#include <memory>
#include <string>

#include "configs/run_config.h"
#include "models/decoder.h"
#include "train/objective.h"
#include "train/texts.h"

namespace kvsmith {

/// What a run is to learn: next tokens, what a teacher expects, or which answers are preferred.
/// `model` is the one that learns, ready to run; `base` as Reference. Tells `note` what it asks.
/// Throws Error as Distiller and Reference.
std::unique_ptr<Objective> make_objective(const RunConfig& config,
                                          const Decoder& model,
                                          const std::string& base,
                                          const Texts& texts,
                                          const std::function<void(const std::string&)>& note);

}  // namespace kvsmith
