#include "cache/retention.h"

#include <algorithm>

#include <torch/types.h>

#include "cache/policies/accumulated.h"
#include "cache/policies/expected.h"
#include "cache/policies/from_keys.h"
#include "cache/policies/keyformer.h"
#include "cache/policies/positional.h"
#include "cache/policies/snapkv.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

at::Tensor RetentionPolicy::merged(const at::Tensor& figures, const at::Tensor& tally) const {
  return figures + tally;
}

const std::vector<RetentionKind>& retention_kinds() {
  static const std::vector<RetentionKind> kinds = {
      {.name = "window",
       .help = "the newest tokens; protect_sinks = 0 for a window alone",
       .make = make_recency},
      {.name = "streaming",
       .help = "StreamingLLM (arXiv:2309.17453): the first tokens and the newest; with positions = "
               "in_cache as published",
       .make = make_recency},
      {.name = "duo",
       .help =
           "DuoAttention (arXiv:2410.10819): all in heads whose learned gate is high, the first "
           "and the newest in others",
       .make = make_recency,
       .by_gates = true},
      {.name = "random",
       .help = "a control: tokens drawn at random",
       .make = make_random,
       .draws = true},
      {.name = "h2o",
       .help = "H2O (arXiv:2306.14048): the largest sums of attention so far",
       .make = make_h2o,
       .recent_share = 0.5},
      {.name = "cam",
       .help = "CaM (ICML 2024): as h2o, and values that go are merged into those that follow",
       .make = make_h2o,
       .recent_share = 0.5,
       .draws = true,
       .merges_values = true},
      {.name = "tova",
       .help = "TOVA (arXiv:2401.06104): the most attention of the newest token, all heads alike",
       .make = make_tova},
      {.name = "keyformer",
       .help = "Keyformer (arXiv:2403.09054): the largest sums of noisy, tempered attention",
       .make = make_keyformer,
       .recent_share = 0.3,
       .draws = true},
      {.name = "snapkv",
       .help = "SnapKV (arXiv:2404.14469): what the end of the prompt attends to, pooled over "
               "neighbours",
       .make = make_snapkv,
       .after_prompt_only = true},
      {.name = "expected",
       .help = "Expected Attention (arXiv:2510.00636): what the queries of the prompt make likely "
               "for those ahead",
       .make = make_expected,
       .after_prompt_only = true,
       .reads_queries = true},
      {.name = "knorm",
       .help = "L2 norm (arXiv:2406.11430): keys of the smallest norm",
       .make = make_knorm},
      {.name = "keydiff",
       .help = "KeyDiff (arXiv:2504.15364): keys least like the mean key",
       .make = make_keydiff},
  };
  return kinds;
}

const RetentionKind& retention_kind(const std::string& name) {
  const auto found = std::ranges::find(retention_kinds(), name, &RetentionKind::name);
  if (found != retention_kinds().end()) return *found;
  std::vector<std::string> names = {"full", "leankv"};
  for (const auto& kind : retention_kinds()) names.push_back(kind.name);
  throw Error(ExitCode::kConfig, {"\"" + name + "\" is no retention policy", "cache.retention",
                                  suggestion(name, names)});
}

at::Tensor reduced(const at::Tensor& by_query_head, const std::string& how) {
  if (how == "max") return by_query_head.amax(2);
  return how == "sum" ? by_query_head.sum(2) : by_query_head.mean(2);
}

}  // namespace kvsmith
