// Products of a small matrix of weights with many positions, holding one tile of sums at a time in registers.
#pragma once

#include "vector.h"

namespace cdnv2 {

// A full tile has kRows outputs by kColumns vectors of positions: as many sums as fit in the registers.
#if defined(__AVX512F__)
constexpr int kRows = 8, kColumns = 3;
#else
constexpr int kRows = 4, kColumns = 3;
#endif
constexpr int kTileWidth = kColumns * kLanes;

// The weight of term k and output o is first[k · term + o · output].
struct Weights {
  const float* first;
  int64_t term, output = 1;

  CDNV2_INLINE Weights from(int64_t o) const { return {first + o * output, term, output}; }
};

// Calls put(o, p, sums) with Σ_k weight(k, o) · x_k, for O outputs and V vectors from position p on.
// walk(p, visit) calls visit(address of x_k at p) for every k in turn.
template <int O, int V, typename Vector, typename Walk, typename Put>
CDNV2_INLINE void tile(int64_t p, Weights weights, const Walk& walk, const Put& put) {
  constexpr int lanes = sizeof(Vector) / sizeof(float);
  Vector sums[O][V];
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[o][v] = Vector{};
  walk(p, [&](const float* from) __attribute__((always_inline)) {
    Vector x[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      x[v] = load<Vector>(from + v * lanes);
      if constexpr (O < kRows) hold(x[v]);  // a full tile uses x so often that compilers hold it by themselves
    }
#pragma GCC unroll 8
    for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v)
        sums[o][v] = multiply_add(weights.first[o * weights.output], x[v], sums[o][v]);
    weights.first += weights.term;
  });
#pragma GCC unroll 8
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) put(o, p + v * lanes, sums[o][v]);
}

// Computes all tiles of O outputs over the positions [p, end): full ones, then narrower ones.
template <int O, int V, typename Walk, typename Put>
CDNV2_INLINE void row_of_tiles(int64_t p, int64_t end, Weights weights, const Walk& walk, const Put& put) {
  for (; p + V * kLanes <= end; p += V * kLanes) tile<O, V, Floats>(p, weights, walk, put);
  if (p == end) return;
  if constexpr (V > 1) {
    row_of_tiles<O, V - 1>(p, end, weights, walk, put);
  } else if constexpr (kLanes > kGrain) {
    tile<O, 1, Float8>(p, weights, walk, put);
  }
}

// Calls put(o, p, sums) as `tile` does, for every output o < outputs and all positions [begin, end), multiples of
// kGrain. Each sum adds its terms in the order of the walk, so it does not depend on how the positions are divided.
template <int O = kRows, typename Walk, typename Put>
CDNV2_INLINE void product(int64_t outputs, int64_t begin, int64_t end, Weights weights, const Walk& walk,
                          const Put& put) {
  int64_t first = 0;
  for (; first + O <= outputs; first += O)
    row_of_tiles<O, kColumns>(begin, end, weights.from(first), walk,
                              [&](int o, int64_t p, auto sums)
                                  __attribute__((always_inline)) { put(first + o, p, sums); });
  if constexpr (O > 1) {
    if (first == outputs) return;
    product<O / 2>(outputs - first, begin, end, weights.from(first), walk,
                   [&](int64_t o, int64_t p, auto sums)
                       __attribute__((always_inline)) { put(first + o, p, sums); });
  }
}

// Walks over rows of positions that are `stride` apart.
struct Rows {
  const float* first;
  int64_t stride, count;

  template <typename Visit>
  CDNV2_INLINE void operator()(int64_t p, const Visit& visit) const {
    const float* from = first + p;
    for (int64_t k = 0; k < count; ++k, from += stride) visit(from);
  }
};

}  // namespace cdnv2
