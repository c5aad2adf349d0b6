#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// How a run learns. Budgets are whichever is reached first; 0 is no limit.
struct TrainConfig {
  int64_t max_steps = 0;            ///< optimizer steps
  int64_t max_tokens = 0;           ///< tokens read
  double max_time = 0;              ///< seconds in this process
  int64_t batch_size = 16;          ///< sequences per optimizer step
  int64_t micro_batch_size = 0;     ///< sequences per forward pass; 0: batch_size
  int64_t sequence_length = 256;    ///< tokens
  double learning_rate = 1e-3;      ///< peak
  double min_learning_rate = 1e-4;  ///< at the end
  std::string lr_scheduler = "cosine";
  int64_t warmup_steps = 50;  ///< optimizer steps
  int64_t decay_steps = 0;    ///< optimizer steps, wsd only
  double weight_decay = 0.1;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.95;
  double adam_eps = 1e-8;
  double max_grad_norm = 1.0;      ///< of all gradients together; 0: no clipping
  double reconstruction_loss = 0;  ///< weight
  double kv_loss = 0;              ///< weight
  std::string init_from;
  std::vector<std::string> trainable;
  std::string precision = "fp32";
  std::string device = "auto";
  int64_t seed = 0;
  int64_t threads = 0;  ///< CPU threads; 0: all cores
  bool deterministic = false;
  bool gradient_checkpointing = false;
  int64_t max_nonfinite = 3;            ///< steps skipped in a row before training stops
  int64_t log_every = 10;               ///< steps
  int64_t validate_every = 0;           ///< steps; 0: at the end only
  int64_t validate_tokens = 65536;      ///< tokens; 0: the whole split
  int64_t early_stopping_patience = 0;  ///< validations; 0: never
  int64_t checkpoint_every = 500;       ///< steps; 0: at the end only
  int64_t keep_last = 3;                ///< checkpoints
  int64_t keep_every = 0;               ///< steps; 0: none for good
  bool keep_best = true;
  bool tensorboard = true;
  double peak_flops = 0;  ///< FLOP/s of the device; 0: measured

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "max_steps", .help = "optimizer steps; 0: no limit", .min = 0, .max = 1e15},
          self.max_steps);
    visit(Key{.name = "max_tokens",
              .help = "tokens read, padding among them; 0: no limit",
              .min = 0,
              .max = 1e15},
          self.max_tokens);
    visit(Key{.name = "max_time",
              .help = "seconds of training in this process; then save and end; 0: no limit",
              .min = 0,
              .shapes_result = false},
          self.max_time);
    visit(
        Key{.name = "batch_size", .help = "sequences per optimizer step", .min = 1, .max = 1 << 24},
        self.batch_size);
    visit(Key{.name = "micro_batch_size",
              .help = "sequences per forward pass, a divisor of batch_size: smaller needs less "
                      "memory for the same result; 0: batch_size",
              .min = 0,
              .max = 1 << 24},
          self.micro_batch_size);
    visit(Key{.name = "sequence_length", .help = "tokens per sequence", .min = 2, .max = 1 << 24},
          self.sequence_length);
    visit(Key{.name = "learning_rate", .help = "peak learning rate", .min = 0, .max = 10},
          self.learning_rate);
    visit(Key{.name = "min_learning_rate",
              .help = "learning rate at the end of linear, cosine and wsd",
              .min = 0,
              .max = 10},
          self.min_learning_rate);
    visit(Key{.name = "lr_scheduler",
              .help = "course of the learning rate after the warm-up",
              .choices = {"constant", "linear", "cosine", "wsd"}},
          self.lr_scheduler);
    visit(Key{.name = "warmup_steps", .help = "steps of linear rise from 0", .min = 0},
          self.warmup_steps);
    visit(Key{.name = "decay_steps",
              .help = "wsd: last steps, which decay linearly; 0: a fifth of the run",
              .min = 0},
          self.decay_steps);
    visit(Key{.name = "weight_decay", .help = "AdamW decay, of matrices only", .min = 0, .max = 10},
          self.weight_decay);
    visit(Key{.name = "adam_beta1", .help = "decay of the first moment", .min = 0, .max = 0.9999},
          self.adam_beta1);
    visit(Key{.name = "adam_beta2", .help = "decay of the second moment", .min = 0, .max = 0.99999},
          self.adam_beta2);
    visit(Key{.name = "adam_eps",
              .help = "added to the root of the second moment",
              .min = 0,
              .max = 1},
          self.adam_eps);
    visit(Key{.name = "max_grad_norm",
              .help = "gradients are scaled down to this global norm; 0: no clipping",
              .min = 0},
          self.max_grad_norm);
    visit(Key{.name = "reconstruction_loss",
              .help = "autoencoded layers: weight of the mean absolute error of decoded keys and "
                      "values, summed over layers, beside the loss on tokens",
              .min = 0,
              .max = 1e6},
          self.reconstruction_loss);
    visit(Key{.name = "kv_loss",
              .help = "layers that read ahead (LCKV): weight of the mean squared change, in the "
                      "last pass, of the rows that are read from below, beside the loss on tokens",
              .min = 0,
              .max = 1e6},
          self.kv_loss);
    visit(Key{.name = "init_from",
              .help = "run, checkpoint or exported model whose parameters the run begins with, by "
                      "name; what is not in it is initialised as usual; empty: nothing"},
          self.init_from);
    visit(Key{.name = "trainable",
              .help = "patterns of parameter names (* and ?); parameters that fit none stay as "
                      "they are; empty: all learn"},
          self.trainable);
    visit(Key{.name = "precision",
              .help = "of matrix products and activations; weights and optimizer state are fp32 "
                      "either way",
              .choices = {"fp32", "bf16"}},
          self.precision);
    visit(Key{.name = "device",
              .help = "auto takes a GPU when there is one",
              .choices = {"auto", "cpu", "cuda"}},
          self.device);
    visit(Key{.name = "seed", .help = "of initial weights, data order and dropout", .min = 0},
          self.seed);
    visit(Key{.name = "threads",
              .help = "CPU threads; 0: all cores. Results are bit-repeatable for a given number",
              .min = 0,
              .max = 4096,
              .shapes_result = false},
          self.threads);
    visit(Key{.name = "deterministic",
              .help = "only deterministic kernels; an error where there is none"},
          self.deterministic);
    visit(Key{.name = "gradient_checkpointing",
              .help = "keep only what enters and leaves each layer, and compute the rest again in "
                      "the backward pass: less memory, more time"},
          self.gradient_checkpointing);
    visit(Key{.name = "max_nonfinite",
              .help = "steps in a row whose loss or gradient is not finite that are skipped before "
                      "training stops with exit code 80",
              .min = 0},
          self.max_nonfinite);
    visit(Key{.name = "log_every",
              .help = "steps between log lines",
              .min = 1,
              .shapes_result = false},
          self.log_every);
    visit(Key{.name = "validate_every",
              .help = "steps between validations; 0: at the end only",
              .min = 0,
              .shapes_result = false},
          self.validate_every);
    visit(Key{.name = "validate_tokens",
              .help = "tokens per validation; 0: the whole split",
              .min = 0,
              .shapes_result = false},
          self.validate_tokens);
    visit(
        Key{.name = "early_stopping_patience",
            .help = "validations in a row without a lower loss after which the run ends; 0: never",
            .min = 0,
            .shapes_result = false},
        self.early_stopping_patience);
    visit(Key{.name = "checkpoint_every",
              .help = "steps between checkpoints; 0: at the end only",
              .min = 0,
              .shapes_result = false},
          self.checkpoint_every);
    visit(Key{.name = "keep_last",
              .help = "newest checkpoints kept",
              .min = 1,
              .shapes_result = false},
          self.keep_last);
    visit(Key{.name = "keep_every",
              .help = "checkpoints at multiples of this many steps are kept for good; 0: none",
              .min = 0,
              .shapes_result = false},
          self.keep_every);
    visit(Key{.name = "keep_best",
              .help = "keep the checkpoint with the lowest validation loss",
              .shapes_result = false},
          self.keep_best);
    visit(Key{.name = "tensorboard",
              .help = "write TensorBoard event files beside metrics.jsonl",
              .shapes_result = false},
          self.tensorboard);
    visit(Key{.name = "peak_flops",
              .help = "FLOP/s of the device for MFU; 0: a matrix product is timed at start",
              .min = 0,
              .shapes_result = false},
          self.peak_flops);
  }

  bool operator==(const TrainConfig&) const = default;

  /// Auxiliary losses that are wanted, by name, and their weights.
  std::vector<std::pair<std::string, double>> auxiliary_weights() const;
  /// Tokens per optimizer step.
  int64_t tokens_per_step() const { return batch_size * sequence_length; }
  /// Optimizer steps that the budgets in steps and tokens allow; 0 when there is none.
  int64_t total_steps() const;
  /// Sequences per forward pass.
  int64_t micro_batch() const { return micro_batch_size == 0 ? batch_size : micro_batch_size; }
};

}  // namespace kvsmith
