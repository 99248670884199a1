// Memory of tensors on the CPU.
#pragma once

namespace bipo {

// Gives the process's tensors on the CPU memory from malloc(3), aligned to 64 bytes here, instead
// of libtorch's posix_memalign(3). glibc 2.36 looks for an aligned block among free ones of size +
// alignment, so that a freed block does not serve the next request of its own size: a training step
// whose live tensors take 1.04 GB held 1.5 GB. Tensors that exist already are freed as before. Call
// once at the start, before threads allocate; further calls change nothing. A request that the
// system refuses throws EnvironmentError with its size.
void use_compact_cpu_memory();

}  // namespace bipo
