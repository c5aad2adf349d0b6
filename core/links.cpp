#include <cerrno>

#include <sys/stat.h>
#include <unistd.h>

#include "core/files.h"
#include "core/posix.h"

namespace kvsmith {

void replace_link(const std::filesystem::path& link, const std::filesystem::path& target) {
  const posix::Place place(link);
  place.expect_nothing_but(S_IFLNK);
  const std::string fresh = posix::temporary_name(place.name, "tmp");
  if (::symlinkat(target.c_str(), place.fd.get(), fresh.c_str()) != 0) {
    posix::fail("create a link", link, errno);
  }
  if (::renameat(place.fd.get(), fresh.c_str(), place.fd.get(), place.name.c_str()) != 0) {
    const int error = errno;
    ::unlinkat(place.fd.get(), fresh.c_str(), 0);
    posix::fail("rename a link to", link, error);
  }
  posix::sync_directory(place.fd.get(), place.directory);
}

}  // namespace kvsmith
