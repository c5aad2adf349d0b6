#include "cache/replay.h"

#include <torch/types.h>

namespace kvsmith {

void ReplayLog::record(int64_t end, const at::Tensor& kept) {
  steps_.push_back({end, kept.to(torch::kCPU)});
}

at::Tensor ReplayLog::seen() const {
  const int64_t tokens = steps_.back().end;
  const auto& shape = steps_.back().kept.sizes();
  const auto own = torch::ones({tokens, tokens}, torch::kBool).tril();
  auto out = torch::zeros({shape[0], shape[1], tokens, tokens}, torch::kBool);
  // one column more takes the rows that are none
  auto before = torch::zeros({shape[0], shape[1], tokens + 1}, torch::kBool);
  int64_t first = 0;
  for (const auto& [end, kept] : steps_) {
    auto queries = out.narrow(2, first, end - first);
    queries.copy_(before.narrow(2, 0, tokens).unsqueeze(2));
    queries.narrow(3, first, end - first)
        .copy_(own.narrow(0, first, end - first).narrow(1, first, end - first));
    before.zero_().scatter_(2, kept.masked_fill(kept.lt(0), tokens), true);
    first = end;
  }
  return out;
}

Rows ReplayRows::read() const {
  Rows rows = rows_.read();
  rows.allowed = seen_;
  return rows;
}

Rows ReplayRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  rows_.write(positions, std::move(fresh));
  return read();
}

}  // namespace kvsmith
