#include "trainer/model/operators/cpu_products.hpp"

#include <ATen/ATen.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "trainer/model/operators/avx512_tiles.hpp"
#include "trainer/model/operators/operators.hpp"
#include "trainer/model/operators/task_queue.hpp"

namespace bipo {
namespace {

using at::BFloat16;

constexpr std::int64_t kTile = tiles::kTile;

// The longest sum of one call of brgemm: two operands of a tile stay in a core's cache.
constexpr std::int64_t kLongestSum = 768;

// The rows of g for which a thread packs columns of W once: enough to make the packing cheap, few
// enough that all threads have work where W is narrow.
constexpr std::int64_t kRowsPerPacking = 4 * kTile;

std::int64_t tiles_for(std::int64_t size) {
  return (size + kTile - 1) / kTile;
}

template <typename Type>
constexpr bool kIsPaired = std::is_same_v<Type, BFloat16>;

// Calls work(first, count) for the parts of a sum over `length` terms, all of one even size but the
// last.
template <class Work>
void for_each_part(std::int64_t length, const Work& work) {
  const std::int64_t parts = (length + kLongestSum - 1) / kLongestSum;
  const std::int64_t size = ((length + parts - 1) / parts + 31) / 32 * 32;
  for (std::int64_t first = 0; first < length; first += size) {
    work(first, std::min(size, length - first));
  }
}

// c [m, n] = a [m, k] b + (adds ? c : 0); `b`: k rows of `ldb` numbers, or k / 2 rows of pairs.
template <typename Type>
void multiply_tile(std::int64_t m, std::int64_t n, std::int64_t k, const Type* a, std::int64_t lda,
                   const Type* b, std::int64_t ldb, bool adds, float* c, std::int64_t ldc) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, adds, a, b, c, kIsPaired<Type>);
}

// Shares tasks over the threads; each lets go of what brgemm keeps for it (AMX tiles) at its end.
template <typename Type, class Work>
void share_tiles(std::int64_t tasks, const Work& work) {
  share_tasks(tasks, [&](TaskQueue& queue) {
    work(queue);
    at::native::cpublas::brgemm_release(kIsPaired<Type>);
  });
}

// Rows of float32, without gaps between the elements of a row.
struct Rows {
  explicit Rows(const at::Tensor& x)
      : kept(x.stride(1) == 1 || x.size(1) == 1 ? x : x.contiguous()),
        first(kept.const_data_ptr<float>()),
        count(kept.size(0)),
        stride(kept.stride(0)) {}

  at::Tensor kept;
  const float* first;
  std::int64_t count;
  std::int64_t stride;
};

// Returns memory for numbers of `Type`, aligned to cache lines.
template <typename Type>
at::Tensor make_scratch(std::int64_t count) {
  return at::empty({count}, c10::CppTypeToScalarType<Type>::value);
}

// The rows of x in panels of kTile, element by element (or pair by pair) of all rows of a panel.
template <typename Type>
at::Tensor pack_rows(const Rows& x, std::int64_t columns) {
  const std::int64_t panels = tiles_for(x.count);
  at::Tensor packed = make_scratch<Type>(panels * kTile * columns);
  Type* to = packed.mutable_data_ptr<Type>();
  constexpr std::int64_t kStrips = kTile / tiles::kStrip;
  share_row_ranges(panels * kStrips, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t strip = begin; strip < end; ++strip) {
      const std::int64_t row = strip * tiles::kStrip;
      const std::int64_t rows = std::min(tiles::kStrip, x.count - row);
      if (rows > 0) {
        tiles::pack_strip(x.first + row * x.stride, x.stride, rows, columns,
                          to + strip / kStrips * kTile * columns, strip % kStrips);
      }
    }
  });
  return packed;
}

// Computes out^T tile by tile: the weight's rows are the left operand, as they are in memory.
template <typename Type>
void linear(const at::Tensor& x_tensor, const at::Tensor& weight, const float* residual,
            float* out) {
  const Rows x(x_tensor);
  const std::int64_t width = weight.size(0);
  const std::int64_t inner = weight.size(1);
  const at::Tensor packed = pack_rows<Type>(x, inner);
  const Type* panels = packed.const_data_ptr<Type>();
  const Type* w = weight.const_data_ptr<Type>();
  const std::int64_t panel_count = tiles_for(x.count);
  share_tiles<Type>(tiles_for(width) * panel_count, [&](TaskQueue& queue) {
    alignas(64) std::array<float, kTile * kTile> tile;
    while (const auto task = queue.next()) {
      const std::int64_t column = *task / panel_count * kTile;
      const std::int64_t panel = *task % panel_count;
      const std::int64_t row = panel * kTile;
      const std::int64_t columns = std::min(kTile, width - column);
      const std::int64_t rows = std::min(kTile, x.count - row);
      for_each_part(inner, [&](std::int64_t first, std::int64_t count) {
        multiply_tile(columns, tiles::whole_strips(rows), count, w + column * inner + first, inner,
                      panels + panel * kTile * inner + first * kTile, kTile, first != 0,
                      tile.data(), kTile);
      });
      const std::int64_t at = row * width + column;
      tiles::store_transposed(tile.data(), rows, columns,
                              residual == nullptr ? nullptr : residual + at, out + at, width);
    }
  });
}

// Returns g in the weight's type, with columns of zeros up to an even number.
template <typename Type>
at::Tensor left_operand(const at::Tensor& g) {
  const std::int64_t columns = g.size(1);
  if constexpr (kIsPaired<Type>) {
    const at::Tensor typed = g.to(at::kBFloat16);
    return columns % 2 == 0 ? typed.contiguous() : at::constant_pad_nd(typed, {0, 1}).contiguous();
  }
  return g.stride(1) == 1 || columns == 1 ? g : g.contiguous();
}

template <typename Type>
void add_product(const at::Tensor& g, const at::Tensor& weight, float* sum, bool overwrite) {
  const at::Tensor left = left_operand<Type>(g);
  const Type* a = left.const_data_ptr<Type>();
  const std::int64_t lda = left.stride(0);
  const std::int64_t rows = left.size(0);
  const std::int64_t width = weight.size(1);
  const Type* w = weight.const_data_ptr<Type>();
  const std::int64_t groups = (rows + kRowsPerPacking - 1) / kRowsPerPacking;
  share_tiles<Type>(tiles_for(width) * groups, [&](TaskQueue& queue) {
    const at::Tensor packed = make_scratch<Type>((kLongestSum + 32) * kTile);
    Type* b = packed.mutable_data_ptr<Type>();
    while (const auto task = queue.next()) {
      const std::int64_t column = *task / groups * kTile;
      const std::int64_t columns = std::min(kTile, width - column);
      const std::int64_t first_row = *task % groups * kRowsPerPacking;
      const std::int64_t end_row = std::min(rows, first_row + kRowsPerPacking);
      for_each_part(left.size(1), [&](std::int64_t first, std::int64_t count) {
        tiles::pack_columns(w + first * width + column, width,
                            std::min(count, weight.size(0) - first), columns, b);
        for (std::int64_t row = first_row; row < end_row; row += kTile) {
          multiply_tile(std::min(kTile, end_row - row), columns, count, a + row * lda + first, lda,
                        b, kTile, !overwrite || first != 0, sum + row * width + column, width);
        }
      });
    }
  });
}

// Says whether libtorch multiplies a tile of `Type` as it should.
template <typename Type>
bool multiplies_a_tile() {
  try {
    // The unit matrix times numbers that bfloat16 holds exactly.
    constexpr std::int64_t kSize = 32;
    const auto number = [](std::int64_t i) { return static_cast<float>(i % 251); };
    std::array<Type, kSize * kSize> unit;
    std::array<Type, kSize * kSize> numbers;
    std::array<Type, kSize * kTile> packed;
    std::array<float, kSize * kSize> product{};
    for (std::int64_t i = 0; i < kSize * kSize; ++i) {
      unit[static_cast<std::size_t>(i)] = Type(i / kSize == i % kSize ? 1.0F : 0.0F);
      numbers[static_cast<std::size_t>(i)] = Type(number(i));
    }
    tiles::pack_columns(numbers.data(), kSize, kSize, kSize, packed.data());
    multiply_tile(kSize, kSize, kSize, unit.data(), kSize, packed.data(), kTile, false,
                  product.data(), kSize);
    at::native::cpublas::brgemm_release(kIsPaired<Type>);
    for (std::int64_t i = 0; i < kSize * kSize; ++i) {
      if (product[static_cast<std::size_t>(i)] != number(i)) {
        return false;
      }
    }
    return true;
  } catch (const c10::Error&) {  // the processor or this libtorch cannot
    return false;
  }
}

}  // namespace

bool multiplies_tiles(at::ScalarType type) {
  if (type == at::kFloat) {
    static const bool can = tiles::runs_here() && multiplies_a_tile<float>();
    return can;
  }
  static const bool can_bfloat16 =
      tiles::rounds_here() && multiplies_tiles(at::kFloat) && multiplies_a_tile<BFloat16>();
  return type == at::kBFloat16 && can_bfloat16;
}

bool multiplies_in_tiles(at::ScalarType product_type, at::Device device) {
  const bool as_float = product_type == at::kBFloat16 && emulates_bfloat16(device);
  return device.is_cpu() && multiplies_tiles(as_float ? at::kFloat : product_type);
}

bool is_tiled_weight(const at::Tensor& weight) {
  return weight.is_cpu() && weight.is_contiguous() && multiplies_tiles(weight.scalar_type()) &&
         (weight.scalar_type() == at::kFloat || weight.size(1) % 2 == 0);
}

at::Tensor tiled_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& residual) {
  at::Tensor out = at::empty({x.size(0), weight.size(0)}, x.options());
  const at::Tensor added = residual.defined() ? residual.contiguous() : at::Tensor();
  const float* added_rows = added.defined() ? added.const_data_ptr<float>() : nullptr;
  auto* const function = weight.scalar_type() == at::kFloat ? linear<float> : linear<BFloat16>;
  function(x, weight, added_rows, out.mutable_data_ptr<float>());
  return out;
}

void add_tiled_product(const at::Tensor& g, const at::Tensor& weight, const at::Tensor& sum,
                       bool overwrite) {
  auto* const function =
      weight.scalar_type() == at::kFloat ? add_product<float> : add_product<BFloat16>;
  function(g, weight, sum.mutable_data_ptr<float>(), overwrite);
}

}  // namespace bipo
