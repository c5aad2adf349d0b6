#pragma once

#include <filesystem>

#include "data/build_documents.h"

namespace kvsmith {

/// build_corpus() of chats; see there.
CorpusBuildStats build_chat_corpus(const CorpusBuild& options,
                                   const std::filesystem::path& output,
                                   const BuildProgress& on_progress);

}  // namespace kvsmith
