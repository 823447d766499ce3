// Transposes 8 × 8 floats in registers.
#pragma once

#include "vector.h"

namespace cdnv2 {

// Row i of the result, at to + i · stride, holds element i of each of the 8 rows that start at from[0 … 7] + offset.
CDNV2_INLINE void transpose8(const float* const* from, int64_t offset, float* to, int64_t stride) {
  Float8 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = load<Float8>(from[i] + offset);
  for (int i = 0; i < 8; i += 2) {  // pairs of rows exchange every second element,
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += i % 4 ? 3 : 1) {  // then pairs of elements,
    a[i] = __builtin_shufflevector(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    a[i + 2] = __builtin_shufflevector(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {  // then halves
    store(to + i * stride, __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
    store(to + (i + 4) * stride, __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
  }
}

}  // namespace cdnv2
