#include "trainer/cache/temporary_files.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <mutex>
#include <set>
#include <utility>

namespace bipo {
namespace {

constexpr std::time_t kDay = 24 * 60 * 60;

// The temporary files of this process.
class Registry {
 public:
  void add(const std::filesystem::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.insert(path);
  }
  void forget(const std::filesystem::path& path) {
    const std::lock_guard lock(mutex_);
    paths_.erase(path);
  }
  void remove_all() {
    const std::lock_guard lock(mutex_);
    for (const std::filesystem::path& path : paths_) {
      ::unlink(path.c_str());
    }
    paths_.clear();
  }

 private:
  std::mutex mutex_;
  std::set<std::filesystem::path> paths_;
};

Registry& registry() {
  static auto* const files = new Registry;  // other threads may outlive main()
  return *files;
}

}  // namespace

// Another process may take the file for abandoned before it is locked, and remove it: then the
// caller's next step fails, as for any file that was removed.
TemporaryFile::TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {
  registry().add(path_);
  file_ = open_file(path_, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (!file_.is_open()) {
    const int error = errno;
    registry().forget(path_);
    errno = error;
  } else {
    ::flock(file_.get(), LOCK_EX | LOCK_NB);  // where there are no locks, nobody takes one
  }
}

TemporaryFile::~TemporaryFile() {
  if (file_.is_open() && !path_.empty()) {
    ::unlink(path_.c_str());
    registry().forget(path_);
  }
}

bool TemporaryFile::keep_as(const std::filesystem::path& path) {
  if (::rename(path_.c_str(), path.c_str()) != 0) {
    return false;
  }
  registry().forget(path_);
  path_.clear();
  return true;
}

void remove_temporary_files() {
  registry().remove_all();
}

void remove_abandoned(const std::filesystem::path& path, bool is_of_this_host) {
  const FileDescriptor file = open_file(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (!file.is_open()) {
    return;
  }
  struct stat status {};
  const bool is_candidate = ::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode) &&
                            (is_of_this_host || std::time(nullptr) - status.st_mtime > kDay);
  if (is_candidate && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
    ::unlink(path.c_str());
  }
}

}  // namespace bipo
