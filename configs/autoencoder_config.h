#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// Layers that cache keys and values as an autoencoder makes them (KV-CAR).
struct AutoencoderConfig {
  std::string autoencoder_kind = "mlp";
  int64_t autoencoder_dim = 0;     ///< elements of a code
  int64_t autoencoder_hidden = 0;  ///< inner elements of an mlp coder
  std::vector<std::string> reused_heads = {};

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "autoencoder_kind",
              .help = "autoencoded layers: two layers with LeakyReLU each way (mlp), or one matrix "
                      "(linear)",
              .choices = {"mlp", "linear"}},
          self.autoencoder_kind);
    visit(Key{.name = "autoencoder_dim",
              .help = "autoencoded layers: cached width of a head's key and of its value; 0 takes "
                      "head_dim / 2",
              .min = 0,
              .max = 4096},
          self.autoencoder_dim);
    visit(Key{.name = "autoencoder_hidden",
              .help = "autoencoded layers: inner width of mlp encoders and decoders; 0 takes "
                      "head_dim",
              .min = 0,
              .max = 1 << 20},
          self.autoencoder_hidden);
    visit(Key{.name = "reused_heads",
              .help = "autoencoded layers: key/value heads that are read from the layer below and "
                      "not stored, each \"LAYER:HEAD\" counted from 0; \"LAYER:HEAD:k\" its keys "
                      "alone, \"LAYER:HEAD:v\" its values"},
          self.reused_heads);
  }
  bool operator==(const AutoencoderConfig&) const = default;
};

}  // namespace kvsmith
