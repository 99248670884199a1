// How loops that the compiler vectorises are built for every processor.
#pragma once

#include <cmath>

// GCC's vectoriser calls glibc's vector functions (libmvec) if they are declared as here.  glibc's
// own headers declare them under -ffast-math only, which would also break NaN and infinity.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
extern "C" __attribute__((__simd__("notinbranch"))) float expf(float) noexcept;
#if __GLIBC_PREREQ(2, 35)
extern "C" __attribute__((__simd__("notinbranch"))) float erff(float) noexcept;
extern "C" __attribute__((__simd__("notinbranch"))) float tanhf(float) noexcept;
#endif
#endif

// One program for every processor: at its start it chooses the widest version that can run.
// Sanitizers cannot instrument functions that run before they are set up, as this choice does.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define BIPO_FOR_EACH_PROCESSOR \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BIPO_FOR_EACH_PROCESSOR
#endif
