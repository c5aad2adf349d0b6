#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "cache/cache_plan.h"
#include "checkpoints/load.h"
#include "inference/growing_text.h"
#include "serve/cache_budget.h"
#include "serve/fair_queue.h"
#include "serve/metrics.h"
#include "serve/prefix_store.h"
#include "serve/reply.h"

namespace kvsmith {

struct EngineOptions {
  CacheConfig cache = {};                   ///< shares of it are of max_position_embeddings
  int64_t cache_budget = int64_t{1} << 30;  ///< bytes of all caches together
  int64_t max_sequences = 32;               ///< in one step
  int64_t max_queued = 1024;                ///< texts that wait
  int64_t prefill_chunk = 512;  ///< tokens of a prompt between two steps, where that is exact
};

/// Continues many texts at once: every step runs the model once for all that have a next token, one
/// adapter after the other, and texts come and go between steps. Clients take turns, and of each it
/// is first come, first served: the next text is admitted once all bytes that its cache may grow to
/// are free; so those of all caches never exceed the budget. Has a thread that alone uses the
/// model.
class Engine {
 public:
  /// `adapters`: as load_adapters() makes them of the model. Throws Error: 64 without tokenizer, 78
  /// for a cache that the model cannot have. The model outlives this object.
  Engine(LoadedModel& model, const EngineOptions& options, std::vector<LoadedModel> adapters = {});
  /// As stop() without grace.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Answers through the reply, at once where it refuses. Callable from any thread.
  std::shared_ptr<Reply> submit(TextRequest request);
  /// Refuses what waits and what comes, lets what runs go on for as long, then ends it. From one
  /// thread at a time.
  void stop(std::chrono::milliseconds grace);
  bool is_accepting() const;

  const LoadedModel& model() const { return model_; }
  const std::vector<LoadedModel>& adapters() const { return adapters_; }
  const EngineOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }

 private:
  using Clock = std::chrono::steady_clock;

  struct Waiting {
    TextRequest request;
    std::shared_ptr<Reply> reply;
    int64_t bytes = 0;  ///< the most that its cache will occupy
    Clock::time_point since;
  };

  struct Sequence {
    Waiting from;
    KvCache cache;
    GrowingText text;
    std::vector<int32_t> tokens;  ///< prompt and new ones
    int64_t seen = 0;             ///< of these, those in the cache
    int64_t reused = 0;           ///< of the prompt, those that were there already
    std::vector<ScoredToken> prompt_scores;
    bool is_over = false;

    int64_t prompt_size() const { return static_cast<int64_t>(from.request.prompt.size()); }
    int64_t new_tokens() const { return static_cast<int64_t>(tokens.size()) - prompt_size(); }
    bool is_reading() const { return seen < prompt_size(); }
  };

  LoadedModel& model_of(const TextRequest& request) {
    return request.model == 0 ? model_ : adapters_.at(request.model - 1);
  }
  /// What is wrong with a request, if anything.
  std::optional<Failure> impossible(const TextRequest& request) const;
  /// Why a text of `client` that may need so many bytes can never run, or cannot wait now. Where
  /// all places are taken, one of a client that has more of them is made free. Under the mutex.
  std::optional<Failure> no_room(int64_t bytes, const std::string& client);
  void refuse(Reply& reply, Failure failure);

  void run();
  /// False once there is nothing to do any more.
  bool wait_for_work();
  void drop_cancelled();
  void admit();
  std::optional<Waiting> next_admitted();
  Sequence begun(Waiting waiting);
  /// A chunk of the first prompt that has not been read to its end.
  void prefill();
  void read_chunk(Sequence& sequence);
  /// One token of every text whose prompt has been read.
  void decode();
  /// The same of some that have one model.
  void decode_together(const std::vector<Sequence*>& lanes);
  /// Chooses the next token. logits: [vocab_size] on the host.
  void extend(Sequence& sequence, const at::Tensor& logits);
  void end(Sequence& sequence, ReplyPart last);
  void fail(Sequence& sequence, Finish finish, Failure failure);
  void publish();

  LoadedModel& model_;
  std::vector<LoadedModel> adapters_;
  EngineOptions options_;
  CachePlan plan_;
  CacheBudget budget_;
  PrefixStore prefixes_;
  Metrics metrics_;

  mutable std::mutex mutex_;  ///< of what follows
  std::condition_variable has_work_;
  FairQueue<Waiting> queue_;
  bool is_stopping_ = false;
  Clock::time_point deadline_;

  std::list<Sequence> running_;  ///< of the thread
  std::thread thread_;
};

}  // namespace kvsmith
