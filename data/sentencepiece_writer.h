#pragma once

#include <string>

#include "data/sentencepiece_model.h"

namespace kvsmith {

/// A SentencePiece model file that says what `model` does, without a normaliser's table of
/// characters: parse_sentencepiece_model() gives `model` back, and the library encodes as its
/// pieces and scores have it.
std::string sentencepiece_model_bytes(const SentencePieceModel& model);

}  // namespace kvsmith
