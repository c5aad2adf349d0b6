#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <set>

#include <CLI/CLI.hpp>
#include <torch/types.h>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/npy.h"
#include "core/text.h"
#include "evaluate/perplexity.h"
#include "evaluate/result_file.h"
#include "evaluate/sweep.h"
#include "tools/console.h"
#include "tools/model_flags.h"
#include "tools/probe_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct EvaluateFlags {
  ModelFlags model;
  fs::path corpus, json, sweep, output;
  std::string protocol = "decode", name;
  std::vector<std::string> cache;
  EvaluateOptions options;
  bool force = false, quiet = false, stepwise = false;
};

/// A figure with `digits` decimals; "-" for one that is not known.
std::string fixed(const Json& value, int digits) {
  if (!value.is_number()) return "-";
  std::ostringstream out;
  out << std::fixed << std::setprecision(digits) << value.get<double>();
  return std::move(out).str();
}

/// What a cache method does, beside the same text with everything kept.
void print_method(const Json& json) {
  const Json& resident = json["resident"];
  const auto bytes = [&](const char* key) { return human_bytes(resident[key].get<double>()); };
  std::cout << "method         " << json["method"]["name"].get<std::string>() << ": perplexity in ["
            << fixed(json["perplexity_interval"][0], 3) << ", "
            << fixed(json["perplexity_interval"][1], 3) << "], "
            << fixed(json["perplexity_full"], 3) << " with everything kept\n"
            << "               KL " << fixed(json["kl_to_full"], 5)
            << " nats, same likeliest token "
            << fixed(100 * json["top1_agreement"].get<double>(), 1) << " %\n"
            << "resident       mean " << bytes("mean_bytes") << ", most " << bytes("max_bytes")
            << ", peak with buffers " << bytes("peak_bytes") << ", read a token "
            << bytes("read_bytes_per_token") << "\n";
}

void print(const Json& json) {
  const Json& cache = json["cache"];
  const auto bytes = [&](const char* key) { return human_bytes(cache[key].get<double>()); };
  std::cout << "model          " << json["architecture"].get<std::string>() << ", "
            << human_count(json["parameters"].get<double>()) << " parameters\n"
            << "protocol       " << json["protocol"].get<std::string>() << ", context "
            << json["context"] << ", stride " << json["stride"] << ", " << json["tokens"]
            << " tokens\n"
            << "perplexity     " << fixed(json["perplexity"], 3) << " (nll "
            << fixed(json["nll_per_token"], 6) << " a token)\n"
            << "bits per byte  " << fixed(json["bits_per_byte"], 4) << "\n";
  if (json.contains("unigram_perplexity")) {
    std::cout << "unigram model  perplexity " << fixed(json["unigram_perplexity"], 3)
              << " over the same tokens\n";
  }
  if (json.contains("method")) print_method(json);
  std::cout << "KV cache       " << cache["bytes_measured"] << " bytes measured after "
            << cache["tokens"] << " tokens, " << cache["bytes_formula"] << " by formula\n"
            << "               " << fixed(cache["bytes_per_token"], 1) << " a token, "
            << (cache.contains("bytes_at_8k") ? bytes("bytes_at_8k") + " at 8k, " : "") << "peak "
            << bytes("bytes_peak") << " (" << cache["dtype"].get<std::string>() << ")\n"
            << "protocols      largest logit difference between decode and parallel "
            << json["decode_vs_parallel_max_abs_diff"] << "\n"
            << "speed          " << human_count(json["tokens_per_second"].get<double>())
            << " tokens/s\n";
  for (const Json& passes : json.value("passes", Json::array())) {
    std::cout << "in parallel    perplexity " << fixed(passes["perplexity"], 3) << " with "
              << passes["forward_passes"] << " + " << json["backward_passes"] << " passes\n";
  }
  for (const Json& point : json.value("recall", Json::array())) {
    std::cout << "recall         " << fixed(point["gain"], 3) << " nats a token, "
              << fixed(100 * point["accuracy"].get<double>(), 1) << " % right, "
              << point["distance"] << " tokens later\n";
  }
  const auto percent = [](const Json& share) { return fixed(100 * share.get<double>(), 1); };
  for (const Json& point : json.value("probes", Json::array())) {
    std::cout << std::left << std::setw(15) << point["task"].get<std::string>()
              << percent(point["exact_match"]) << " % exact, " << percent(point["token_accuracy"])
              << " % of tokens, " << fixed(point["gain"], 3) << " nats a token gained; "
              << point["distance"] << " tokens later, " << point["length"] << " in all\n";
  }
}

/// A hash of the files of a checkpoint, or of the manifest that has theirs.
std::string contents_of(const fs::path& checkpoint) {
  for (const fs::path& place : {checkpoint, checkpoint / "latest"})
    if (fs::exists(place / "manifest.json")) return sha256_of_file(place / "manifest.json");
  if (!fs::is_directory(checkpoint)) return sha256_of_file(checkpoint);
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(checkpoint))
    if (entry.is_regular_file()) files.insert(entry.path());
  std::string all;
  for (const auto& file : files) all += sha256_of_file(file);
  return sha256(all);
}

void sweep(const EvaluateFlags& flags) {
  if (flags.output.empty())
    throw Error(ExitCode::kUsage,
                {"a sweep needs a directory for its results", "--sweep", "give --output DIR"});
  Console console(flags.quiet);
  const auto result =
      run_sweep(sweep_config_of(flags.sweep), flags.output,
                {.load =
                     [&](const std::string& checkpoint) {
                       ModelFlags model = flags.model;
                       model.checkpoint = checkpoint;
                       return load(model);
                     },
                 .identity =
                     [&](const std::string& checkpoint) {
                       return cat(flags.model.dtype, " ", flags.model.forward_passes, " ",
                                  flags.model.backward_passes, " ", contents_of(checkpoint));
                     },
                 .note = [&](const std::string& line) { console.note(line); }});
  std::cout << flags.output.string() << ": " << result.done << " points evaluated, " << result.known
            << " known before, " << result.refused << " left out\n";
}

void evaluate_it(EvaluateFlags& flags) {
  if (!flags.sweep.empty()) return sweep(flags);
  for (const auto& [path, name] : {std::pair(&flags.model.checkpoint, "a checkpoint"),
                                   std::pair(&flags.corpus, "--corpus FILE")})
    if (path->empty())
      throw Error(ExitCode::kUsage, {cat(name, " is required"), "evaluate", "see evaluate --help"});
  if (!flags.json.empty()) expect_writable(flags.json, flags.force);
  flags.options.protocol = protocol_of(flags.protocol);
  if (!flags.cache.empty()) flags.options.cache = cache_config_of(flags.cache);
  flags.options.probe.prefill = !flags.stepwise;
  flags.options.probe.batch = flags.options.batch;
  const Corpus corpus = Corpus::open(flags.corpus);
  LoadedModel model = load(flags.model);
  if (!flags.name.empty()) model.name = flags.name;
  Console console(flags.quiet);
  const int64_t longest = model.model->config().max_position_embeddings;
  if (flags.options.context > longest) {
    console.note(cat("context ", flags.options.context, " is longer than the model's ",
                     "max_position_embeddings, ", longest, ": later positions are new to it"));
  }
  const auto result = evaluate(model, corpus, flags.options, [&](int64_t tokens, int64_t total) {
    console.progress(cat("scored ", tokens, "/", total, " tokens"), false);
  });
  const Json json = to_json(result, model, flags.corpus.string());
  if (!flags.json.empty()) write_result(flags.json, json);
  print(json);
}

struct LogitsFlags {
  ModelFlags model;
  fs::path tokens, output;
  std::string protocol = "parallel";
  bool force = false;
};

std::vector<int64_t> read_ids(const fs::path& path, int64_t vocab_size) {
  const Json json = Json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  const auto refuse = [&](const std::string& what) {
    throw Error(ExitCode::kBadData,
                {what, path.string(), "expected a JSON list such as [1, 42, 7]"});
  };
  if (!json.is_array() || json.empty()) refuse("not a list of token ids");
  std::vector<int64_t> ids;
  for (const auto& item : json) {
    if (!item.is_number_integer()) refuse(cat("item ", ids.size(), " is not a whole number"));
    ids.push_back(item.get<int64_t>());
    if (ids.back() < 0 || ids.back() >= vocab_size) {
      refuse(cat("item ", ids.size() - 1, " is ", ids.back(), ", the vocabulary ends at ",
                 vocab_size - 1));
    }
  }
  return ids;
}

void logits(const LogitsFlags& flags) {
  expect_writable(flags.output, flags.force);
  const Protocol protocol = protocol_of(flags.protocol);
  if (protocol != Protocol::kDecode && protocol != Protocol::kParallel)
    throw Error(ExitCode::kUsage,
                {"logits are computed by decode or parallel, not " + flags.protocol, "--protocol",
                 "use one of these"});
  const torch::InferenceMode inference;
  LoadedModel loaded = load(flags.model);
  DecoderImpl& model = *loaded.model;
  const auto ids = read_ids(flags.tokens, model.config().vocab_size);
  const auto tokens = torch::tensor(ids, torch::kLong).unsqueeze(0).to(model.device());
  const int64_t count = tokens.size(1), step = protocol == Protocol::kParallel ? count : 1;
  auto cache = model.make_cache({.batch = 1, .initial_rows = count});
  NpyWriter out(flags.output, static_cast<uint64_t>(count),
                static_cast<uint64_t>(model.config().vocab_size));
  for (int64_t t = 0; t < count; t += step) {
    const auto hidden =
        model.step(tokens.narrow(1, t, step), Positions::range(t, step, model.device()), cache);
    for (int64_t i = 0; i < step; ++i) {
      const auto row = model.logits(hidden.narrow(1, i, 1)).cpu().contiguous();
      out.write({row.const_data_ptr<float>(), static_cast<size_t>(row.numel())});
    }
  }
  out.commit();
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto* verb = app.add_subcommand("evaluate", "Measure perplexity and cache bytes of a checkpoint");
  auto flags = std::make_shared<EvaluateFlags>();
  add_model_flags(*verb, flags->model);
  verb->get_option("checkpoint")->required(false);  // a sweep names its own
  verb->add_option(
      "--sweep", flags->sweep,
      "TOML file with a section [sweep]: a grid of checkpoints, methods, budgets, codecs "
      "and contexts; goes on where it was interrupted");
  verb->add_option("--output,-o", flags->output, "directory of a sweep's results");
  verb->add_option("--corpus", flags->corpus, "corpus file made by `data build`");
  verb->add_option("--split", flags->options.split, "split to score")->capture_default_str();
  verb->add_option("--context", flags->options.context,
                   "tokens a window; 0: max_position_embeddings");
  verb->add_option("--stride", flags->options.stride, "tokens between windows; 0: no overlap");
  verb->add_option(
          "--protocol", flags->protocol,
          "decode (token by token through the cache), prefill_continue, chunked, replay or "
          "parallel; docs/evaluation.md")
      ->capture_default_str();
  add_cache_flag(*verb, flags->cache);
  verb->add_option("--prefill", flags->options.prefill,
                   "prefill_continue: tokens of the first step; 0: half the context");
  verb->add_option("--chunk", flags->options.chunk, "chunked: tokens a step")
      ->capture_default_str();
  verb->add_option("--max-tokens", flags->options.max_tokens, "tokens to score; 0: all");
  verb->add_option("--batch", flags->options.batch, "windows or samples side by side")
      ->capture_default_str();
  verb->add_flag("--unigram", flags->options.unigram,
                 "score a unigram model of the split train over the same tokens");
  verb->add_flag("--recall", flags->options.recall,
                 "repeat passages after growing distances: how many nats a token the memory saves");
  verb->add_option("--probe", flags->options.probes, probe_help())->take_all();
  add_probe_flags(*verb, flags->options.probe, "--probe-");
  verb->add_option("--probe-samples", flags->options.probe.samples, "for each length and depth")
      ->capture_default_str();
  verb->add_option("--probe-depth", flags->options.probe.depths,
                   "share of the filler before the fact, 0 to 1; may be repeated")
      ->take_all()
      ->capture_default_str();
  verb->add_flag("--probe-stepwise", flags->stepwise,
                 "read prompts of probes token by token instead of in one step");
  verb->add_option("--passes", flags->options.passes,
                   "also score whole windows with so many forward passes (LCKV); may be repeated")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->take_all();
  verb->add_flag("!--skip-lengths", flags->options.measures_lengths,
                 "do not also measure the cache at lengths beside the context and at 8k, which "
                 "`report` needs");
  verb->add_option("--name", flags->name, "of the run in reports");
  verb->add_option("--json", flags->json, "write the result to this file");
  verb->add_flag("--force", flags->force, "replace the file");
  verb->add_flag("--quiet,-q", flags->quiet, "no progress on stderr");
  verb->footer(
      "Examples:\n"
      "  kvsmith evaluate runs/gqa --corpus corpus.h5 --context 256 --json "
      "runs/gqa/evaluation.json\n"
      "  kvsmith evaluate runs/gqa --corpus corpus.h5 --probe passkey --probe mqar "
      "--probe-length 256\n"
      "  kvsmith evaluate runs/gqa --corpus corpus.h5 --context 2048 --cache keyformer "
      "budget_fraction=0.5\n"
      "  kvsmith evaluate exported/ --corpus corpus.h5 --protocol parallel --dtype bf16");
  verb->callback([flags] { evaluate_it(*flags); });
}

void add_logits(CLI::App& app) {
  auto* verb =
      app.add_subcommand("logits", "Raw logits of given token ids, for comparing implementations");
  auto flags = std::make_shared<LogitsFlags>();
  add_model_flags(*verb, flags->model);
  verb->add_option("--tokens", flags->tokens, "JSON file with a list of token ids")->required();
  verb->add_option("--protocol", flags->protocol, "parallel or decode")->capture_default_str();
  verb->add_option("--output,-o", flags->output, "NumPy file, fp32 [seq, vocab_size]")->required();
  verb->add_flag("--force", flags->force, "replace the output");
  verb->footer("Example:\n  kvsmith logits runs/gqa --tokens ids.json --output logits.npy");
  verb->callback([flags] { logits(*flags); });
}

}  // namespace kvsmith
