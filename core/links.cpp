#include <cerrno>
#include <string>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/posix.h"
#include "core/text.h"

namespace kvsmith {

void replace_link(const std::filesystem::path& link, const std::filesystem::path& target) {
  posix::Place place(link);
  place.expect_nothing_but(S_IFLNK);
  const std::string fresh = cat(".", place.name, ".", ::getpid(), ".new");
  if (::unlinkat(place.fd.get(), fresh.c_str(), 0) != 0 && errno != ENOENT) {
    posix::fail("remove", place.directory / fresh, errno);
  }
  if (::symlinkat(target.c_str(), place.fd.get(), fresh.c_str()) != 0) {
    posix::fail("create a link", link, errno);
  }
  if (::renameat(place.fd.get(), fresh.c_str(), place.fd.get(), place.name.c_str()) != 0) {
    posix::fail("rename a link to", link, errno);
  }
  posix::sync_directory(place.fd.get(), place.directory);
}

}  // namespace kvsmith
