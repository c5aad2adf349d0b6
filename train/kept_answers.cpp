#include "train/kept_answers.h"

namespace kvsmith {

void refuse_kept(const Error& error) {
  Problem problem = error.problem();
  if (error.code() == ExitCode::kBadData) problem.remedy = "delete the file: it is made again";
  throw Error(error.code(), problem);
}

}  // namespace kvsmith
