// Decoders of the tensor types whose quants are numbers of table entries: IQ1, IQ2, IQ3, IQ4, and
// the 4-bit floating-point types MXFP4 and NVFP4.
#pragma once

#include <cstddef>

namespace bipo {

// Each decodes one block, of 256 values unless said otherwise, at any address, as the functions of
// the same names in gguf-py's quants.py do: every product and sum in float32, in their order.
void decode_iq1_s(const std::byte* block, float* values);
void decode_iq1_m(const std::byte* block, float* values);
void decode_iq2_xxs(const std::byte* block, float* values);
void decode_iq2_xs(const std::byte* block, float* values);
void decode_iq2_s(const std::byte* block, float* values);
void decode_iq3_xxs(const std::byte* block, float* values);
void decode_iq3_s(const std::byte* block, float* values);
void decode_iq4_xs(const std::byte* block, float* values);
void decode_iq4_nl(const std::byte* block, float* values);  // 32 values
void decode_mxfp4(const std::byte* block, float* values);   // 32 values
void decode_nvfp4(const std::byte* block, float* values);   // 64 values

}  // namespace bipo
