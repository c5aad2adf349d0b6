#include "train/metrics.h"

#include <cmath>
#include <string>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// Keeps the lines of steps up to `resumed_step`; what came after goes to a file beside it.
fs::path prepared(const fs::path& run, int64_t resumed_step) {
  const fs::path path = run / "metrics.jsonl";
  if (!fs::exists(path)) return path;
  const std::string text = read_file(path);
  std::string kept, discarded;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    if (newline == std::string::npos) break;  // torn by a crash
    const std::string line = text.substr(begin, newline + 1 - begin);
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool known =
        json.is_object() && json.contains("step") && json["step"].is_number_integer();
    const bool past = !known || json["step"].get<int64_t>() > resumed_step;
    (past ? discarded : kept) += line;
    begin = newline + 1;
  }
  if (!discarded.empty()) {  // first, so that a crash in between loses nothing
    int n = 0;
    while (fs::exists(run / cat("metrics.jsonl.discarded-", n))) ++n;
    write_file(run / cat("metrics.jsonl.discarded-", n), discarded);
  }
  if (kept.size() != text.size()) write_file(path, kept);
  return path;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

}  // namespace

MetricsLog::MetricsLog(const fs::path& run, int64_t resumed_step, bool tensorboard)
    : file_(prepared(run, resumed_step)) {
  if (tensorboard) {
    events_ = std::make_unique<EventWriter>(run / "tensorboard", resumed_step);
  }
}

void MetricsLog::log(const StepReport& report,
                     const std::optional<Validation>& validation,
                     double mfu) {
  const double speed = static_cast<double>(report.batch_tokens) / report.seconds;
  Json line = {{"step", report.step},
               {"tokens", report.tokens},
               {"loss", finite(report.loss)},
               {"learning_rate", report.learning_rate},
               {"grad_norm", finite(report.grad_norm)},
               {"tokens_per_second", speed},
               {"mfu", mfu}};
  for (const auto& [name, value] : report.auxiliary) line[name] = finite(value);
  if (report.skipped) line["skipped"] = true;
  if (validation) {
    line["validation_loss"] = finite(validation->loss);
    for (const auto& [name, value] : validation->figures)
      line["validation_" + name] = finite(value);
  }
  waiting_ += line.dump() + "\n";
  try {
    write();
  } catch (const Error& error) {
    if (error.code() != ExitCode::kIo) throw;
  }
  if (!events_) return;
  const auto scalar = [&](const std::string& tag, double value) {
    events_->scalar(report.step, tag, static_cast<float>(value));
  };
  scalar("train/loss", report.loss);
  for (const auto& [name, value] : report.auxiliary) scalar("train/" + name, value);
  scalar("train/learning_rate", report.learning_rate);
  scalar("train/grad_norm", report.grad_norm);
  scalar("train/tokens_per_second", speed);
  if (!validation) return;
  scalar("validation/loss", validation->loss);
  for (const auto& [name, value] : validation->figures) scalar("validation/" + name, value);
}

void MetricsLog::write() {
  file_.append(waiting_);
  waiting_.clear();
}

void MetricsLog::sync() {
  write();
  file_.sync();
  if (events_) events_->flush();
}

}  // namespace kvsmith
