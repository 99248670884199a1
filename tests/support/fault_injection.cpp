// Makes one call of the file system fail in a program that is started with this library in
// LD_PRELOAD.
//
//   BIPO_FAULT_UNDER   only calls on files below this folder count (required)
//   BIPO_FAULT_LOG     file that gets a line "CALL PATH" for each call that counts (default none)
//   BIPO_FAULT_AT      which of those calls fails, from 1; 0: none (default)
//   BIPO_FAULT_ERROR   errno of the failure, or "short": half of the bytes are read or written
//   BIPO_FAULT_LASTS   set: every later call of the same name fails, too
//
// A failed close() has closed the file, as on Linux; every other failed call has done nothing.
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

// The names with and without 64 are one function here, and both must be interposed.
#undef open64
#undef openat64
#undef fopen64

namespace {

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// Only plain system calls: whatever else is called here may be interposed.
void log_call(const char* call, const char* path) {
  const char* log = getenv("BIPO_FAULT_LOG");
  if (log == nullptr) {
    return;
  }
  char line[3 * PATH_MAX];
  const int length = snprintf(line, sizeof line, "%s %s\n", call, path);
  const long file =
      syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file >= 0) {
    syscall(SYS_write, file, line, static_cast<std::size_t>(length));
    syscall(SYS_close, file);
  }
}

bool is_under(const char* path) {
  const char* folder = getenv("BIPO_FAULT_UNDER");
  return folder != nullptr && *folder != '\0' && strncmp(path, folder, strlen(folder)) == 0;
}

enum class Fault { kNone, kError, kShort };

// Counts a call on the file, and sets errno where it must fail.
Fault fault_of_absolute(const char* call, const char* path) {
  static std::atomic<long> count{0};
  static std::atomic<const char*> failed{nullptr};
  if (!is_under(path)) {
    return Fault::kNone;
  }
  log_call(call, path);
  const char* at = getenv("BIPO_FAULT_AT");
  const bool is_it = at != nullptr && ++count == atol(at);
  const char* before = failed.load();
  const bool goes_on =
      getenv("BIPO_FAULT_LASTS") != nullptr && before != nullptr && strcmp(before, call) == 0;
  if (!is_it && !goes_on) {
    return Fault::kNone;
  }
  failed = call;
  const char* error = getenv("BIPO_FAULT_ERROR");
  if (error != nullptr && strcmp(error, "short") == 0) {
    return Fault::kShort;
  }
  errno = error == nullptr ? EIO : atoi(error);
  return Fault::kError;
}

Fault fault_of(const char* call, const char* path) {
  char absolute[2 * PATH_MAX] = "";
  if (path[0] == '/') {
    return fault_of_absolute(call, path);
  }
  if (syscall(SYS_getcwd, absolute, PATH_MAX) < 0) {
    return Fault::kNone;
  }
  const std::size_t length = strlen(absolute);
  snprintf(absolute + length, sizeof absolute - length, "/%s", path);
  return fault_of_absolute(call, absolute);
}

Fault fault_of(const char* call, int descriptor) {
  char link[64];
  char path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const long length = syscall(SYS_readlink, link, path, sizeof path - 1);
  if (length <= 0) {
    return Fault::kNone;
  }
  path[length] = '\0';
  const int before = errno;
  const Fault fault = fault_of_absolute(call, path);
  if (fault == Fault::kNone) {
    errno = before;
  }
  return fault;
}

// Calls `real(length)` with all, half, or none of the bytes.
template <typename Real>
ssize_t transfer(const char* call, int descriptor, std::size_t length, Real real) {
  switch (fault_of(call, descriptor)) {
    case Fault::kError:
      return -1;
    case Fault::kShort:
      return real(length > 1 ? length / 2 : length);
    case Fault::kNone:
      break;
  }
  return real(length);
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

int open_file(const char* path, int flags, mode_t mode) {
  if (fault_of("open", path) == Fault::kError) {
    return -1;
  }
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

void* map(void* address, std::size_t length, int protection, int flags, int descriptor,
          off_t offset) {
  if (descriptor >= 0 && fault_of("mmap", descriptor) == Fault::kError) {
    return MAP_FAILED;
  }
  static auto* const real = next<void*(void*, std::size_t, int, int, int, off_t)>("mmap64");
  return real(address, length, protection, flags, descriptor, offset);
}

int allocate(int descriptor, int mode, off_t offset, off_t length) {
  return fault_of("fallocate", descriptor) == Fault::kError
             ? -1
             : static_cast<int>(syscall(SYS_fallocate, descriptor, mode, offset, length));
}

// Returns the error itself.
int allocate_posix(int descriptor, off_t offset, off_t length) {
  static auto* const real = next<int(int, off_t, off_t)>("posix_fallocate64");
  return fault_of("fallocate", descriptor) == Fault::kError ? errno
                                                            : real(descriptor, offset, length);
}

int cut(int descriptor, off_t length) {
  return fault_of("ftruncate", descriptor) == Fault::kError
             ? -1
             : static_cast<int>(syscall(SYS_ftruncate, descriptor, length));
}

FILE* open_stream(const char* name, const char* path, const char* mode) {
  return fault_of("open", path) == Fault::kError
             ? nullptr
             : next<FILE*(const char*, const char*)>(name)(path, mode);
}

ssize_t read_at(int descriptor, void* bytes, std::size_t length, off_t offset) {
  return transfer("pread", descriptor, length, [&](std::size_t part) {
    return syscall(SYS_pread64, descriptor, bytes, part, offset);
  });
}

ssize_t write_at(int descriptor, const void* bytes, std::size_t length, off_t offset) {
  return transfer("pwrite", descriptor, length, [&](std::size_t part) {
    return syscall(SYS_pwrite64, descriptor, bytes, part, offset);
  });
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_file(path, flags, mode);
}

FILE* fopen(const char* path, const char* mode) {
  return open_stream("fopen", path, mode);
}

FILE* fopen64(const char* path, const char* mode) {
  return open_stream("fopen64", path, mode);
}

ssize_t read(int descriptor, void* bytes, std::size_t length) {
  return transfer("read", descriptor, length,
                  [&](std::size_t part) { return syscall(SYS_read, descriptor, bytes, part); });
}

ssize_t write(int descriptor, const void* bytes, std::size_t length) {
  return transfer("write", descriptor, length,
                  [&](std::size_t part) { return syscall(SYS_write, descriptor, bytes, part); });
}

// Short: all but the last part.
ssize_t writev(int descriptor, const iovec* parts, int count) {
  return transfer("write", descriptor, static_cast<std::size_t>(count), [&](std::size_t some) {
    return syscall(SYS_writev, descriptor, parts, static_cast<int>(some));
  });
}

ssize_t pread(int descriptor, void* bytes, std::size_t length, off_t offset) {
  return read_at(descriptor, bytes, length, offset);
}

ssize_t pread64(int descriptor, void* bytes, std::size_t length, off_t offset) {
  return read_at(descriptor, bytes, length, offset);
}

ssize_t pwrite(int descriptor, const void* bytes, std::size_t length, off_t offset) {
  return write_at(descriptor, bytes, length, offset);
}

ssize_t pwrite64(int descriptor, const void* bytes, std::size_t length, off_t offset) {
  return write_at(descriptor, bytes, length, offset);
}

int fsync(int descriptor) {
  return fault_of("fsync", descriptor) == Fault::kError
             ? -1
             : static_cast<int>(syscall(SYS_fsync, descriptor));
}

int fdatasync(int descriptor) {
  return fault_of("fsync", descriptor) == Fault::kError
             ? -1
             : static_cast<int>(syscall(SYS_fdatasync, descriptor));
}

int close(int descriptor) {
  const Fault fault = fault_of("close", descriptor);
  const int error = errno;
  const int result = static_cast<int>(syscall(SYS_close, descriptor));
  if (fault == Fault::kError) {
    errno = error;
    return -1;
  }
  return result;
}

int rename(const char* from, const char* to) noexcept {
  return fault_of("rename", to) == Fault::kError
             ? -1
             : static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int ftruncate(int descriptor, off_t length) noexcept {
  return cut(descriptor, length);
}

int ftruncate64(int descriptor, off_t length) noexcept {
  return cut(descriptor, length);
}

int fallocate(int descriptor, int mode, off_t offset, off_t length) {
  return allocate(descriptor, mode, offset, length);
}

int fallocate64(int descriptor, int mode, off_t offset, off_t length) {
  return allocate(descriptor, mode, offset, length);
}

int posix_fallocate(int descriptor, off_t offset, off_t length) {
  return allocate_posix(descriptor, offset, length);
}

int posix_fallocate64(int descriptor, off_t offset, off_t length) {
  return allocate_posix(descriptor, offset, length);
}

void* mmap(void* address, std::size_t length, int protection, int flags, int descriptor,
           off_t offset) noexcept {
  return map(address, length, protection, flags, descriptor, offset);
}

void* mmap64(void* address, std::size_t length, int protection, int flags, int descriptor,
             off_t offset) noexcept {
  return map(address, length, protection, flags, descriptor, offset);
}

}  // extern "C"
