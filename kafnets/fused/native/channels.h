// A vector of channels of one pixel, and gates: which of its numbers ReLU let through.
#pragma once
#include <type_traits>

#include "simd.h"

#define EACH(k, count) _Pragma("GCC unroll 16") for (int k = 0; k < count; k++)
#define INLINE inline __attribute__((always_inline))
// If the transform of a tile is inlined into a loop, the compiler computes all addresses ahead, and they do not fit
// into the registers: it takes 180 cycles instead of 139.
#define NOT_INLINE __attribute__((noinline))

namespace {

using V = Vec<float>;
constexpr int LANES = Simd<float>::lanes;

// What ReLU lets through: one bit per number, one word per vector. NaN passes, as in PyTorch.
using Gate = std::conditional_t<(LANES > 8), uint16_t, uint8_t>;

#if defined(__AVX512F__)
static INLINE Gate gate_of(V value) {
    return _mm512_cmp_ps_mask((__m512)value, _mm512_setzero_ps(), _CMP_NLE_UQ);
}

static INLINE V gated(V value, Gate gate) { return (V)_mm512_maskz_mov_ps(gate, (__m512)value); }
#else
using Mask = typename Simd<float>::I;

static INLINE Gate gate_of(V value) {
#if defined(__AVX2__)
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)value, _mm256_setzero_ps(), _CMP_NLE_UQ));
#else
    const Mask passed = ~(value <= V{});
    Gate gate = 0;
    EACH(l, LANES) gate |= (passed[l] & 1) << l;
    return gate;
#endif
}

static INLINE V gated(V value, Gate gate) {
    Mask bits;
    EACH(l, LANES) bits[l] = 1 << l;
    return (bits & int32_t(gate)) != 0 ? value : V{};
}
#endif

}  // namespace
