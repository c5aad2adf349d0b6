#include "train/run.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include <torch/types.h>

#include "checkpoints/store.h"
#include "core/error.h"
#include "core/files.h"
#include "core/process.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "data/tokenizer.h"
#include "models/footprint.h"
#include "train/adapter.h"
#include "train/device.h"
#include "train/init_from.h"
#include "train/make_objective.h"
#include "train/metrics.h"
#include "train/run_directory.h"
#include "train/texts.h"
#include "train/trainable.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kMostFailedSaves = 3;

/// Refuses to continue a run under another configuration, on other data or with another teacher.
void refuse_differences(std::vector<Difference> all, const RunOptions& options) {
  std::erase_if(all, [&](const Difference& d) {
    return std::ranges::find(options.accept, d.key) != options.accept.end();
  });
  if (all.empty()) return;
  std::string text;
  for (const auto& d : all) text += cat("\n  ", d.key, ": ", d.before, " -> ", d.after);
  throw Error(
      ExitCode::kConfig,
      {"the run was started with another configuration:" + text, options.output.string(),
       "to go on with it, change it back, or accept each with --accept KEY; for another run give "
       "another --output, or begin it anew with --resume never --force"});
}

/// "distill.teacher" is "teacher" in a checkpoint's state.
std::string name_in_state(const std::string& key) { return key.substr(key.rfind('.') + 1); }

/// One run from start or checkpoint to its end.
class Run {
 public:
  Run(RunConfig config, RunOptions options, const RunHooks& hooks)
      : config_(std::move(config)),
        options_(std::move(options)),
        hooks_(hooks),
        lock_((fs::create_directories(options_.output), options_.output)),
        store_(options_.output),
        texts_(config_),
        validation_(texts_.validation()),
        device_(device_of(config_.train)) {
    sweep_temporaries(options_.output);
  }

  RunResult train() {
    const auto checkpoint =
        checkpoint_to_continue(store_, options_, [&](const std::string& text) { note(text); });
    build(checkpoint);
    // only now: a run that is refused must lose nothing
    if (options_.resume != "auto") drop_newer(store_, options_, trainer_step());
    if (checkpoint) store_.mend_links(*checkpoint);
    const int64_t total = config_.train.total_steps();
    if ((total > 0 && trainer_step() >= total) || is_stale()) {
      result_.finished = true;
      return result_;
    }
    check_space();
    MetricsLog metrics(options_.output, trainer_step(), config_.train.tensorboard);
    return loop(metrics);
  }

 private:
  void build(const std::optional<CheckpointInfo>& checkpoint) {
    const auto& t = config_.train;
    const CorpusInfo& info = texts_.info();
    auto training = texts_.training();
    if (const auto text = training->remark(); !text.empty()) note(text);
    if (!validation_ && !config_.data.validation_split.empty())
      note(cat("note: no corpus has a split \"", config_.data.validation_split,
               "\": nothing is validated"));
    batches_ = std::make_unique<BatchStream>(std::move(training), t.micro_batch());
    Decoder model(config_.model);
    environment_ = runtime_environment(device_);
    const bool adapts = config_.lora.rank > 0;
    if (!checkpoint || adapts) {
      initialize(*model, static_cast<uint64_t>(t.seed));
      if (!t.init_from.empty()) {
        const auto initial = init_from(*model, t.init_from, info.tokenizer_sha256);
        note(initial.summary);
        token_ids_ = initial.token_ids;
      }
    }
    model->to(device_);
    if (adapts) base_ = adapt(*model, config_, [&](const std::string& text) { note(text); });
    if (checkpoint) {
      const fs::path& path = checkpoint->path;
      auto changes = differences(
          parse_run_config(read_file(path / "config.toml"), (path / "config.toml").string()),
          config_);
      // a model that has moved is the same, which its fingerprint proves
      std::erase_if(changes, [&](const Difference& d) {
        return d.before != "\"\"" && d.after != "\"\"" &&
               (d.key == "distill.teacher" || d.key == "preference.reference" ||
                (adapts && d.key == "train.init_from"));
      });
      const Json &before = checkpoint->state.at("corpora"), now = texts_.fingerprints();
      if (before != now) changes.push_back({"data.corpus", before.dump(), now.dump()});
      if (checkpoint->state.value("base", base_) != base_)
        changes.push_back({"train.init_from", checkpoint->state.at("base"), base_});
      refuse_differences(std::move(changes), options_);
      if (const Json& old = checkpoint->state.at("environment"); old != environment_)
        note(cat("bit-exact continuation is not guaranteed: ", old.dump(), " -> ",
                 environment_.dump()));
      load_into(saved_parameters(*model, config_.lora),
                SafetensorsFile(path / "model.safetensors"));
    }
    model->set_compute_type(compute_type_of(t));
    auto objective =
        make_objective(config_, model, base_, texts_, [&](const std::string& text) { note(text); });
    models_ = objective->fingerprints();
    for (const auto& [key, now] : models_) {
      const auto before = checkpoint ? checkpoint->state.value(name_in_state(key), now) : now;
      if (before != now) refuse_differences({{key, before, now}}, options_);
    }
    objective->prepare([&](const std::string& text) { note(text); });
    trainer_ = std::make_unique<Trainer>(config_, model, *batches_, std::move(objective));
    if (checkpoint) {
      load_into(trainer_->optimizer().state(),
                SafetensorsFile(checkpoint->path / "optimizer.safetensors"));
      trainer_->restore(checkpoint->state.at("trainer"));
      best_loss_ = checkpoint->state.value("best_validation_loss", best_loss_);
      lowest_validation_ = checkpoint->state.value("lowest_validation_loss", lowest_validation_);
      stale_validations_ = checkpoint->state.value("stale_validations", stale_validations_);
      for (const char* key : {"bos_id", "eos_id", "end_ids"})
        if (checkpoint->state.contains(key)) token_ids_[key] = checkpoint->state.at(key);
      saved_step_ = trainer_step();
      result_.checkpoint = checkpoint->path;
      note(cat("resumed ", path_text(checkpoint->path), " at step ", trainer_step()));
    }
    note(cat(architecture_name(config_.model), ", ",
             human_count(static_cast<double>(model->parameter_count())), " parameters, ",
             t.precision, ", ", environment_.at("device").get<std::string>(), ", ",
             environment_.at("threads").get<int>(), " threads"));
    if (const auto text = describe_trainable(*model); !text.empty()) note(text);
    if (const auto sequences = static_cast<double>(t.total_steps() * t.batch_size); sequences > 0) {
      const double epochs = sequences / static_cast<double>(batches_->sequences_per_epoch());
      const bool are_pairs = config_.preference.is_wanted();
      note(cat(are_pairs
                   ? human_count(sequences / 2) + " pairs, "
                   : human_count(sequences * static_cast<double>(t.sequence_length)) + " tokens, ",
               std::round(100 * epochs) / 100, " epochs"));
    }
  }

  /// A full disk is better found before training than after an hour of it.
  void check_space() const {
    uint64_t checkpoint = 0;
    for (const auto& [name, tensor] : saved_parameters(*trainer_->model(), config_.lora))
      checkpoint += tensor.nbytes();
    for (const auto& [name, tensor] : trainer_->optimizer().state()) checkpoint += tensor.nbytes();
    const uint64_t needed = 2 * checkpoint + checkpoint / 10, there = free_bytes(options_.output);
    if (there >= needed) return;
    throw Error(ExitCode::kIo,
                {cat("a checkpoint takes ", human_bytes(static_cast<double>(checkpoint)), " and ",
                     human_bytes(static_cast<double>(there)), " are free"),
                 options_.output.string(),
                 cat("free at least ", human_bytes(static_cast<double>(needed)))});
  }

  RunResult loop(MetricsLog& metrics) {
    const auto& t = config_.train;
    const int64_t total = t.total_steps();
    const double peak =
        t.peak_flops > 0 ? t.peak_flops : measure_peak_flops(device_, compute_type_of(t));
    const double flops = training_flops_per_token(config_.model, t.sequence_length) -
                         spared_flops_per_token(*trainer_->model());
    const StopSignals signals;
    const Stopwatch watch;
    const int64_t first = trainer_step();
    while (total == 0 || trainer_step() < total) {
      const StepReport report = trainer_->step();
      const bool at_end = report.step == total || (t.max_time > 0 && watch.seconds() >= t.max_time);
      const int signal = StopSignals::requested();
      const bool validates = validation_ && (at_end || due(t.validate_every, report.step));

      std::optional<Validation> validation;
      if (validates) {
        validation = trainer_->validate(*validation_, t.validate_tokens);
        result_.validation_loss = validation->loss;
        // one that max_time asked for would make a run in parts end earlier
        if (due(t.validate_every, report.step)) note_validation(validation->loss);
        if (hooks_.on_validation) hooks_.on_validation(report.step, *validation);
      }
      const double mfu = flops * static_cast<double>(report.batch_tokens) / report.seconds / peak;
      metrics.log(report, validation, mfu);
      const double per_step = watch.seconds() / static_cast<double>(report.step - first);
      if (hooks_.on_step) {
        hooks_.on_step(report, total, mfu,
                       total > 0 ? per_step * static_cast<double>(total - report.step) : -1);
      }
      result_.last = report;
      if (trainer_->nonfinite_in_a_row() > t.max_nonfinite) diverged(report);
      const bool stops = at_end || signal != 0 || is_stale();
      if (stops || due(t.checkpoint_every, report.step)) save(metrics, validation, stops);
      result_.signal = signal;
      if (stops) break;
    }
    if (is_stale())
      note(cat("stopped: ", stale_validations_, " validations without a lower loss than ",
               lowest_validation_));
    result_.finished = (total > 0 && trainer_step() >= total) || is_stale();
    return result_;
  }

  void note_validation(double loss) {
    stale_validations_ = loss < lowest_validation_ ? 0 : stale_validations_ + 1;
    lowest_validation_ = std::min(lowest_validation_, loss);
  }
  /// The loss on the validation split falls no more.
  bool is_stale() const {
    const int64_t patience = config_.train.early_stopping_patience;
    return patience > 0 && stale_validations_ >= patience;
  }

  static bool due(int64_t every, int64_t step) { return every > 0 && step % every == 0; }

  void save(MetricsLog& metrics, const std::optional<Validation>& validation, bool is_last) {
    const bool is_best = config_.train.keep_best && validation && validation->loss < best_loss_;
    Snapshot snapshot{.config = config_,
                      .weights = saved_parameters(*trainer_->model(), config_.lora),
                      .optimizer = trainer_->optimizer().state(),
                      .tokenizer = texts_.info().tokenizer_model,
                      .state = state(validation, is_best ? validation->loss : best_loss_)};
    try {
      metrics.sync();
      result_.checkpoint = store_.save(snapshot, trainer_step(), is_best);
    } catch (const Error& error) {
      if (error.code() != ExitCode::kIo || is_last || ++failed_saves_ >= kMostFailedSaves) throw;
      note(cat("could not save, training goes on: ", error.what()));
      return;
    }
    if (is_best) best_loss_ = validation->loss;
    saved_step_ = trainer_step();
    failed_saves_ = 0;
    note(cat("saved ", path_text(result_.checkpoint)));
    store_.retire({.keep_last = config_.train.keep_last,
                   .keep_every = config_.train.keep_every,
                   .keep_best = config_.train.keep_best},
                  saved_step_);
  }

  Json state(const std::optional<Validation>& validation, double best) const {
    Json out = {{"step", trainer_step()}, {"trainer", trainer_->state()}};
    out["seed"] = config_.train.seed;
    out["corpora"] = texts_.fingerprints();
    out["tokenizer_sha256"] = texts_.info().tokenizer_sha256;
    for (const auto& [key, hash] : models_) out[name_in_state(key)] = hash;
    if (!base_.empty()) out["base"] = base_;
    out["environment"] = environment_;
    out["version"] = KVSMITH_VERSION;
    out.update(token_ids_);
    if (validation) out["validation_loss"] = validation->loss;
    if (best < std::numeric_limits<double>::max()) out["best_validation_loss"] = best;
    if (lowest_validation_ < std::numeric_limits<double>::max()) {
      out["lowest_validation_loss"] = lowest_validation_;
      out["stale_validations"] = stale_validations_;
    }
    return out;
  }

  [[noreturn]] void diverged(const StepReport& report) const {
    throw Error(ExitCode::kNumerical,
                {cat("loss or gradient was not finite in ", trainer_->nonfinite_in_a_row(),
                     " steps in a row, last at step ", report.step),
                 options_.output.string(),
                 saved_step_ > 0 ? cat("the checkpoint of step ", saved_step_,
                                       " is good; lower train.learning_rate")
                                 : "lower train.learning_rate or lengthen train.warmup_steps"});
  }

  int64_t trainer_step() const { return trainer_->steps(); }
  void note(const std::string& text) const {
    if (hooks_.note) hooks_.note(text);
  }
  static std::string path_text(const fs::path& path) { return path.lexically_normal().string(); }

  RunConfig config_;
  RunOptions options_;
  const RunHooks& hooks_;
  DirectoryLock lock_;
  CheckpointStore store_;
  Texts texts_;
  std::unique_ptr<const BatchSource> validation_;  ///< null: none
  at::Device device_;
  Json environment_;
  Json token_ids_ = Json::object();            ///< of the model that this one began from
  std::map<std::string, std::string> models_;  ///< hashes of those that the objective asks
  std::string base_;  ///< fingerprint of what is adapted; empty: nothing is
  std::unique_ptr<BatchStream> batches_;
  std::unique_ptr<Trainer> trainer_;
  RunResult result_;
  double best_loss_ = std::numeric_limits<double>::max();
  double lowest_validation_ = std::numeric_limits<double>::max();
  int64_t stale_validations_ = 0;  ///< since the lowest
  int64_t saved_step_ = 0;
  int failed_saves_ = 0;
};

}  // namespace

void take_from_corpus(RunConfig& config) {
  if (config.data.corpus.empty()) {
    throw Error(ExitCode::kConfig, {"no corpus is given", "data.corpus",
                                    "make one with `kvsmith data build` and name it here"});
  }
  std::optional<std::string> tokenizer;
  for (const auto& path : config.data.corpus) {
    const CorpusInfo info = Corpus::open(path).info();
    if (config.model.vocab_size == 0) config.model.vocab_size = info.vocab_size;
    if (config.model.vocab_size < info.vocab_size) {
      throw Error(ExitCode::kConfig,
                  {cat("vocab_size ", config.model.vocab_size, " is smaller than the ",
                       info.vocab_size, " token ids of ", path),
                   "model.vocab_size", "leave it out to take the tokenizer's"});
    }
    if (tokenizer && *tokenizer != info.tokenizer_sha256) {
      throw Error(ExitCode::kConfig, {"made with another tokenizer than " + config.data.corpus[0],
                                      path, "build both with the same tokenizer"});
    }
    tokenizer = info.tokenizer_sha256;
  }
}

RunResult run_training(RunConfig config, const RunOptions& options, const RunHooks& hooks) {
  take_from_corpus(config);
  if (config.train.total_steps() == 0 && config.train.max_time == 0) {
    throw Error(ExitCode::kConfig,
                {"the run has no end", "train.max_steps", "set max_steps, max_tokens or max_time"});
  }
  if (config.train.total_steps() == 0 && config.train.lr_scheduler != "constant") {
    throw Error(ExitCode::kConfig,
                {"\"" + config.train.lr_scheduler + "\" needs to know the length of the run",
                 "train.lr_scheduler", "set max_steps or max_tokens, or choose \"constant\""});
  }
  if (!config.train.init_from.empty())
    expect_outside(config.train.init_from, options.output, "train.init_from");
  if (!config.distill.teacher.empty())
    expect_outside(config.distill.teacher, options.output, "distill.teacher");
  if (!config.preference.reference.empty())
    expect_outside(config.preference.reference, options.output, "preference.reference");
  configure_runtime(config.train);
  return Run(std::move(config), options, hooks).train();
}

}  // namespace kvsmith
