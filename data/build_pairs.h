#pragma once

#include <filesystem>

#include "data/build_documents.h"

namespace kvsmith {

/// build_corpus() of pairs of answers; see there.
CorpusBuildStats build_pair_corpus(const CorpusBuild& options,
                                   const std::filesystem::path& output,
                                   const BuildProgress& on_progress);

}  // namespace kvsmith
