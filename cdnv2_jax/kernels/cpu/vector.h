// Vectors of floats, as wide as the processor's, and the elementwise functions of a dense layer.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__FMA__)
#include <immintrin.h>
#endif

#define CDNV2_INLINE inline __attribute__((always_inline))
#define CDNV2_LAMBDA __attribute__((always_inline))

namespace cdnv2 {

using Float8 = float __attribute__((vector_size(32)));
using Int8 = int32_t __attribute__((vector_size(32)));

#if defined(__AVX512F__)
using Float16 = float __attribute__((vector_size(64)));
using Int16 = int32_t __attribute__((vector_size(64)));
using Floats = Float16;
#else
using Floats = Float8;
#endif

// Floats in a full vector, and in the narrowest one: every range of positions is a multiple of kGrain.
constexpr int kLanes = sizeof(Floats) / sizeof(float);
constexpr int kGrain = 8;

template <typename Vector>
struct IntsOf;
template <>
struct IntsOf<Float8> {
  using Type = Int8;
};
#if defined(__AVX512F__)
template <>
struct IntsOf<Float16> {
  using Type = Int16;
};
#endif

template <typename Vector>
CDNV2_INLINE Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <typename Vector>
CDNV2_INLINE void store(float* to, Vector v) {
  std::memcpy(to, &v, sizeof v);
}

// Prefetches memory that will be read soon, all at once: weights are used once per image, and one cache miss after
// another would take longer than the multiplications.
CDNV2_INLINE void prefetch(const float* from, int64_t floats) {
  for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(from + i, 0, 2);
}

// Holds v in a register. Compilers assume that reading memory again at every use is free; unaligned, it is not.
template <typename Vector>
CDNV2_INLINE void hold(Vector& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX__)
  asm("" : "+x"(v));
#else
  (void)v;
#endif
}

// a · x + sum with a single rounding if the processor supports it. Left to themselves, compilers do so for some vector
// widths and not for others, and results would depend on how a map is divided.
template <typename Vector>
CDNV2_INLINE Vector multiply_add(float a, Vector x, Vector sum) {
#if defined(__AVX512F__)
  if constexpr (sizeof x == 64) return _mm512_fmadd_ps(_mm512_set1_ps(a), x, sum);
#endif
#if defined(__FMA__)
  if constexpr (sizeof x == 32) return _mm256_fmadd_ps(_mm256_set1_ps(a), x, sum);
#endif
  return a * x + sum;
}

// v where the mask is −1, +0 where it is 0, even if v is NaN.
template <typename Vector>
CDNV2_INLINE Vector masked(Vector v, const int32_t* mask) {
  typename IntsOf<Vector>::Type bits, kept;
  std::memcpy(&bits, &v, sizeof v);
  std::memcpy(&kept, mask, sizeof v);
  bits &= kept;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

enum class Activation { kRelu, kHardSwish };

// ReLU, or x · min(max(x + 3, 0), 6) / 6. Comparisons are written so that NaN stays NaN.
template <Activation kind, typename Vector>
CDNV2_INLINE Vector activate(Vector x) {
  const Vector zero{};
  if constexpr (kind == Activation::kRelu) return x < zero ? zero : x;
  const Vector six = zero + 6.0f;
  Vector gate = x + 3.0f;
  gate = gate < zero ? zero : gate;
  gate = gate > six ? six : gate;
  return x * gate * (1.0f / 6.0f);
}

// Calls f(p, v) for all of [0, width), a multiple of kGrain: full vectors, then perhaps a narrow one. v gives the type.
template <typename F>
CDNV2_INLINE void for_vectors(int64_t width, F&& f) {
  int64_t p = 0;
  for (; p + kLanes <= width; p += kLanes) f(p, Floats{});
  if constexpr (kLanes > kGrain) {
    if (p < width) f(p, Float8{});
  }
}

// Computes activation(scale · x + shift) for `width` positions, a multiple of kGrain.
template <Activation kind>
CDNV2_INLINE void normalise(const float* x, float scale, float shift, float* to, int64_t width) {
  for_vectors(width, [&](int64_t p, auto v) __attribute__((always_inline)) {
    store(to + p, activate<kind>(load<decltype(v)>(x + p) * scale + shift));
  });
}

}  // namespace cdnv2
