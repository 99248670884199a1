// A fast 64-bit hash of large data, by which blocks of a file are verified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bipo {

// Returns a hash of the bytes and their number: the same on every machine (that is little-endian).
// Finds damage of any kind but for a chance of 2^-64; does not protect against forgery.  About as
// fast as memory is read, without special instructions of the processor.
std::uint64_t block_hash(std::span<const std::byte> bytes);

}  // namespace bipo
