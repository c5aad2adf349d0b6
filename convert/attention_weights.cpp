#include "convert/attention_weights.h"

#include <torch/types.h>

#include "core/text.h"

namespace kvsmith {
namespace {

using Parameters = std::map<std::string, at::Tensor>;

/// The rows of a Linear in heads of `width`, each with its bias as the last input.
std::vector<at::Tensor> heads_of(const Parameters& all, const std::string& name, int64_t width) {
  auto weight = all.at(name + ".weight").to(torch::kDouble).cpu();  // [heads * width, inputs]
  if (const auto bias = all.find(name + ".bias"); bias != all.end())
    weight = torch::cat({weight, bias->second.to(torch::kDouble).cpu().unsqueeze(1)}, 1);
  std::vector<at::Tensor> out;
  for (int64_t first = 0; first < weight.size(0); first += width)
    out.push_back(weight.narrow(0, first, width).t().contiguous());
  return out;
}

AttentionWeights read_layer(const Parameters& all,
                            const std::string& at,
                            const ModelConfig& config) {
  const int64_t head_dim = config.head_dim;
  AttentionWeights out;
  out.queries = heads_of(all, at + "q_proj", head_dim);
  out.keys = heads_of(all, at + "k_proj", head_dim);
  out.values = heads_of(all, at + "v_proj", head_dim);
  const auto output = all.at(at + "o_proj.weight").to(torch::kDouble).cpu();
  for (size_t head = 0; head < out.queries.size(); ++head)
    out.outputs.push_back(
        output.narrow(1, static_cast<int64_t>(head) * head_dim, head_dim).t().contiguous());
  if (config.qk_norm) out.key_norm = all.at(at + "k_norm.weight").to(torch::kDouble).cpu();
  if (config.v_norm) out.value_norm = torch::ones({head_dim}, torch::kDouble);
  return out;
}

}  // namespace

std::string mixer_name(int64_t layer) { return cat("model.layers.", layer, ".self_attn."); }

std::vector<size_t> AttentionWeights::readers(size_t kv_head) const {
  const size_t group = queries.size() / keys.size();
  std::vector<size_t> out;
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) out.push_back(head);
  return out;
}

at::Tensor AttentionWeights::key_cost(size_t kv_head, const at::Tensor& input_moments) const {
  at::Tensor sum;
  for (const size_t head : readers(kv_head)) {
    const auto& q = queries[head];
    const auto energy = (q * torch::matmul(input_moments, q)).sum(0);
    const auto planes = energy.unflatten(0, {2, energy.size(0) / 2}).sum(0);
    sum = sum.defined() ? sum + planes : planes;
  }
  return sum;
}

at::Tensor AttentionWeights::value_cost(size_t kv_head) const {
  at::Tensor sum;
  for (const size_t head : readers(kv_head)) {
    const auto cost = torch::matmul(outputs[head], outputs[head].t());
    sum = sum.defined() ? sum + cost : cost;
  }
  return sum;
}

void AttentionWeights::turn_queries(size_t kv_head, const at::Tensor& turn) {
  for (const size_t head : readers(kv_head))
    queries[head] = from_planes(to_planes(queries[head]) * turn);
}

void AttentionWeights::read_out(size_t kv_head, const at::Tensor& readout) {
  for (const size_t head : readers(kv_head)) outputs[head] = torch::matmul(readout, outputs[head]);
}

std::vector<AttentionWeights> read_attention(const DecoderImpl& model) {
  Parameters all;
  for (const auto& [name, tensor] : named_parameters(model)) all[name] = tensor.detach();
  std::vector<AttentionWeights> out;
  for (int64_t layer = 0; layer < model.graph().size(); ++layer)
    out.push_back(read_layer(all, mixer_name(layer), model.config()));
  return out;
}

void write_projection(std::map<std::string, at::Tensor>& out,
                      const std::string& name,
                      const std::vector<at::Tensor>& heads,
                      int64_t hidden_size) {
  const auto all = torch::cat(heads, 1).t();  // [heads * width, inputs]
  out[name + ".weight"] = all.narrow(1, 0, hidden_size).to(torch::kFloat).contiguous();
  if (all.size(1) > hidden_size)
    out[name + ".bias"] = all.select(1, hidden_size).to(torch::kFloat).contiguous();
}

void write_outputs(std::map<std::string, at::Tensor>& out,
                   const std::string& mixer,
                   const AttentionWeights& weights) {
  out[mixer + "o_proj.weight"] = torch::cat(weights.outputs, 0).t().to(torch::kFloat).contiguous();
}

}  // namespace kvsmith
