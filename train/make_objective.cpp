#include "train/make_objective.h"

#include <utility>
#include <vector>

#include "train/distiller.h"
#include "train/preference.h"
#include "train/reference.h"

namespace kvsmith {

std::unique_ptr<Objective> make_objective(const RunConfig& config,
                                          const Decoder& model,
                                          const std::string& base,
                                          const Texts& texts,
                                          const std::function<void(const std::string&)>& note) {
  const std::string& tokenizer = texts.info().tokenizer_sha256;
  if (!config.distill.teacher.empty()) {
    auto distiller = std::make_unique<Distiller>(config.distill, *model, tokenizer);
    note("learning from " + config.distill.teacher);
    return distiller;
  }
  if (!config.preference.is_wanted()) return std::make_unique<NextTokens>();
  Reference reference(config, model, base, tokenizer);
  note("compared with " + reference.name());
  std::vector<std::unique_ptr<const BatchSource>> pairs;
  if (!config.preference.cache.empty()) pairs = texts.pairs();
  return std::make_unique<PreferenceObjective>(config.preference, std::move(reference),
                                               std::move(pairs));
}

}  // namespace kvsmith
