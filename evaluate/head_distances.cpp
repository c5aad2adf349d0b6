#include "evaluate/head_distances.h"

#include <torch/types.h>

#include "configs/head_reuse.h"
#include "core/error.h"
#include "core/text.h"
#include "evaluate/perplexity.h"
#include "evaluate/windows.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

/// One stream of one layer beside that of the layer below.
struct Comparison {
  int64_t layer = 0;
  bool keys = false;
  at::Tensor difference = {}, size = {};  ///< [kv_heads] fp64 sums over tokens and dimensions
};

std::vector<Comparison> comparisons_of(const KvGraph& graph) {
  std::vector<Comparison> out;
  for (int64_t layer = 1; layer < graph.size(); ++layer) {
    const std::string& format = layer_kind(graph[layer].kind).row_format;
    if (format != "kv" && format != "autoencoded") continue;  // other rows are not heads
    for (const bool keys : {true, false})
      if (obstacle_to_reuse(graph, layer, keys).empty()) out.push_back({layer, keys});
  }
  return out;
}

/// The keys or values of a layer, [batch, kv_heads, rows, head_dim] fp32. Keys are turned back to
/// position 0: L1 distances, unlike L2, change with the rotation.
at::Tensor stream_of(const Rows& rows, bool keys, double theta) {
  auto stream = rows.streams[keys ? 0 : 1].to(torch::kFloat);
  if (!keys) return stream;
  return rotate(stream, Positions::scattered(rows.positions.at().neg()), theta);
}

void add_to(at::Tensor& sum, const at::Tensor& elements) {
  const auto of_heads = elements.sum({0, 2, 3}, /*keepdim=*/false, torch::kDouble);
  sum = sum.defined() ? sum + of_heads : of_heads;
}

/// Adds what the rows of one window say.
void compare(const std::vector<Rows>& shown,
             const KvGraph& graph,
             std::vector<Comparison>& comparisons) {
  for (Comparison& of : comparisons) {
    const auto stream = [&](int64_t layer) {
      return stream_of(shown[static_cast<size_t>(layer)], of.keys, graph[layer].rope_theta);
    };
    const auto own = stream(of.layer), below = stream(of.layer - 1);
    add_to(of.difference, (own - below).abs());
    add_to(of.size, (own.abs() + below.abs()) / 2);
  }
}

}  // namespace

std::vector<HeadDistance> head_distances(LoadedModel& loaded,
                                         const Corpus& corpus,
                                         const DistanceOptions& options) {
  const torch::InferenceMode inference;
  check_fits(corpus, loaded);
  DecoderImpl& model = *loaded.model;
  const KvGraph& graph = model.graph();
  auto comparisons = comparisons_of(graph);
  if (comparisons.empty()) {
    throw Error(ExitCode::kConfig,
                {"no layer keeps keys or values of the shape of those of the layer below",
                 architecture_name(model.config()),
                 "head distances are for attention and autoencoded layers"});
  }
  const auto split = corpus.split(options.split);
  const auto windows = windows_of(*split, options.context, options.context, options.max_tokens);
  if (windows.empty())
    throw Error(ExitCode::kBadData, {"no document has two tokens", "split " + options.split, ""});
  for (const Window& window : windows) {
    std::vector<int32_t> ids(static_cast<size_t>(window.length));
    split->read(window.first, ids);
    const auto tokens = torch::tensor(ids, torch::kLong).unsqueeze(0).to(model.device());
    // the memory of a training step holds all rows of a window, also of sliding layers
    auto cache = model.make_transient();
    model.step(tokens, Positions::range(0, window.length, model.device()), cache);
    compare(model.shown_rows(cache), graph, comparisons);
  }

  std::vector<HeadDistance> out;
  for (const Comparison& of : comparisons) {
    if (out.empty() || out.back().layer != of.layer)
      for (int64_t head = 0; head < graph[of.layer].kv_heads; ++head)
        out.push_back({of.layer, head, {}, {}});
    const auto distance = (of.difference / of.size.clamp_min(1e-30)).cpu();  // of nothing: 0
    const size_t first = out.size() - static_cast<size_t>(distance.size(0));
    for (int64_t head = 0; head < distance.size(0); ++head) {
      HeadDistance& row = out[first + static_cast<size_t>(head)];
      (of.keys ? row.keys : row.values) = distance[head].item<double>();
    }
  }
  return out;
}

std::vector<std::string> heads_within(const std::vector<HeadDistance>& distances,
                                      double threshold) {
  std::vector<std::string> out;
  for (const HeadDistance& of : distances) {
    const bool keys = of.keys && *of.keys < threshold;
    const bool values = of.values && *of.values < threshold;
    if (keys || values) out.push_back(to_string(ReusedHead{of.layer, of.head, keys, values}));
  }
  return out;
}

}  // namespace kvsmith
