#include "inference/continuation.h"

namespace kvsmith {

std::string Continuation::take(int64_t token) {
  if (ends_text(model_, options_.end_tokens, token)) return end("eos");
  result_.tokens.push_back(static_cast<int32_t>(token));
  if (text_.append(model_.tokenizer->surface(static_cast<int32_t>(token)))) return end("stop");
  if (static_cast<int64_t>(result_.tokens.size()) >= options_.max_new_tokens) return end("length");
  return text_.take_fresh(/*is_over=*/false);
}

std::string Continuation::end(const std::string& reason) {
  result_.finish = reason;
  return text_.take_fresh(/*is_over=*/true);
}

Generation Continuation::result() const {
  Generation out = result_;
  out.text = text_.text();
  return out;
}

}  // namespace kvsmith
