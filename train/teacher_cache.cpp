#include "train/teacher_cache.h"

#include <vector>

#include <torch/types.h>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/hdf5.h"
#include "train/kept_answers.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIds = "ids";
constexpr const char* kLogProbabilities = "log_probabilities";  // IEEE 754 binary16

Hdf5Layout layout(Hdf5Type type, int64_t rows, int64_t columns) {
  return {type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns)};
}

/// Names what a teacher is asked about one sequence of the batch.
std::string name_of(const at::Tensor& tokens, const Positions& positions, int64_t sequence) {
  std::vector<at::Tensor> parts = {tokens[sequence],
                                   positions.at()[positions.is_range() ? 0 : sequence]};
  if (positions.is_packed()) parts.push_back(positions.segments()[sequence].to(torch::kLong));
  const auto all = torch::cat(parts).cpu();
  Sha256 hash;
  hash.update(all.const_data_ptr(), all.nbytes());
  return hash.hex().substr(0, 32) + ".h5";
}

void write(const fs::path& path, const TopTokens& top) {
  const int64_t rows = top.ids.size(0), columns = top.ids.size(1);
  AtomicFile output(path);
  auto file = Hdf5File::create(output.temporary());
  const auto append = [&](const char* name, Hdf5Type type, const at::Tensor& values) {
    const auto contiguous = values.cpu().contiguous();
    auto data = file.create_dataset(name, layout(type, rows, columns));
    data.append(contiguous.const_data_ptr(), static_cast<uint64_t>(rows));
    data.close();
  };
  append(kIds, Hdf5Type::kUint32, top.ids.to(torch::kInt));
  append(kLogProbabilities, Hdf5Type::kUint16, top.log_p);
  file.close();
  publish_file(output.temporary(), path);
}

TopTokens read(const fs::path& path, int64_t rows, int64_t columns) try {
  const auto file = Hdf5File::open(path);
  const auto whole = [&](const char* name, Hdf5Type type, at::ScalarType as) {
    const auto data = file.open_dataset(name, layout(type, rows, columns));
    if (data.rows() != static_cast<uint64_t>(rows)) {
      throw Error(ExitCode::kBadData,
                  {cat(data.rows(), " rows instead of ", rows), file.where(name), ""});
    }
    auto values = torch::empty({rows, columns}, as);
    data.read(0, data.rows(), values.mutable_data_ptr());
    return values;
  };
  return {whole(kIds, Hdf5Type::kUint32, torch::kInt).to(torch::kLong),
          whole(kLogProbabilities, Hdf5Type::kUint16, torch::kHalf)};
} catch (const Error& error) {
  refuse_kept(error);
}

}  // namespace

TeacherCache::TeacherCache(const fs::path& directory,
                           const std::string& teacher,
                           double temperature,
                           int64_t top_k)
    : directory_(directory / cat(teacher.substr(0, 16), "-top", top_k, "-t", temperature)),
      top_k_(top_k) {
  sweep_abandoned(directory_);
}

TopTokens TeacherCache::expected(const at::Tensor& tokens,
                                 const Positions& positions,
                                 const std::function<TopTokens()>& ask) const {
  const int64_t seq = tokens.size(1);
  std::vector<at::Tensor> ids, log_p;
  TopTokens asked;
  for (int64_t b = 0; b < tokens.size(0); ++b) {
    const auto path = directory_ / name_of(tokens, positions, b);
    TopTokens top;
    if (fs::exists(path)) {
      top = read(path, seq, top_k_);
    } else {
      if (!asked.ids.defined()) asked = ask();
      top = {asked.ids.narrow(0, b * seq, seq), asked.log_p.narrow(0, b * seq, seq)};
      create_parents(path);
      write(path, top);
    }
    ids.push_back(top.ids.to(tokens.device()));
    log_p.push_back(top.log_p.to(tokens.device()));
  }
  return {torch::cat(ids), torch::cat(log_p)};
}

}  // namespace kvsmith
