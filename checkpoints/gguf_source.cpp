#include "checkpoints/gguf_source.h"

#include <array>
#include <memory>
#include <string_view>

#include <torch/types.h>

#include "checkpoints/gguf_config.h"
#include "checkpoints/gguf_tokenizer.h"
#include "checkpoints/rotary_rows.h"
#include "core/error.h"
#include "core/gguf.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

at::ScalarType stored_as(GgmlType type) {
  switch (type) {
    case GgmlType::kF16:
      return at::kHalf;
    case GgmlType::kBF16:
      return at::kBFloat16;
    default:
      return at::kFloat;
  }
}

at::Tensor read_tensor(const GgufFile& file, const GgufTensor& info) {
  auto values = torch::empty(info.shape, stored_as(info.type));
  if (ggml_block(info.type).elements == 1) {
    file.read(info, values.data_ptr());
    return values;
  }
  const auto blocks = torch::empty({static_cast<int64_t>(info.bytes)}, torch::kByte);
  file.read(info, blocks.data_ptr());
  decode_blocks(info.type, blocks.data_ptr(), static_cast<uint64_t>(values.numel()),
                values.data_ptr<float>());
  return values;
}

}  // namespace

bool is_gguf(const fs::path& path) {
  std::array<char, 4> magic{};
  const InputFile file(path);
  return file.read_some(0, magic.data(), magic.size()) == magic.size() &&
         std::string_view(magic.data(), magic.size()) == "GGUF";
}

ModelSource open_gguf(const fs::path& path) {
  const auto file = std::make_shared<const GgufFile>(path);
  ModelSource out;
  out.config = from_gguf_config(*file);
  for (const auto& [name, info] : file->tensors())
    out.tensors[name_of_gguf(name)] = {info.shape, stored_as(info.type)};
  const bool interleaved = has_interleaved_heads(file->text("general.architecture"));
  out.read = [file, interleaved, head_dim = out.config.head_dim](const std::string& name) {
    const auto tensor = read_tensor(*file, *file->find(gguf_name_of(name)));
    return interleaved ? from_interleaved_heads(name, tensor, head_dim) : tensor;
  };
  try {
    out.tokenizer = tokenizer_of_gguf(*file);
  } catch (const Error& error) {  // a kind that is not supported: the weights are of use without
    if (error.code() != ExitCode::kConfig) throw;
    out.tokenizer_problem = error.what();
  }
  const GgufTokenIds ids = token_ids_of_gguf(*file, out.config.vocab_size);
  out.bos_id = ids.bos;
  out.eos_id = ids.eos;
  out.name = path.stem().string();
  out.path = path;
  return out;
}

}  // namespace kvsmith
