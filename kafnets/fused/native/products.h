// Matrix products. A place is a vector of channels: at one pixel of an image, or at one frequency of a tile. Each place
// is multiplied by a matrix of weights.
#pragma once
#include "channels.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 12, SOME_ROWS = 8, FEW_ROWS = 4;  // places whose sums fit into registers; fewer at the end
#else
constexpr int ROWS = 6, SOME_ROWS = 4, FEW_ROWS = 2;
#endif

// R places times C vectors of output channels: places have `in` channels and are `step` apart, u is (in, C vectors).
// The sums are written to m, (R, out), or added to it if `add`. Meanwhile, `in` vectors of weights are prefetched from
// `ahead` on.
template <int R, int C>
NOT_INLINE static void multiply(const float *v, int64_t step, int64_t in, const float *u, const float *ahead,
                                int64_t out, float *m, bool add) {
    constexpr int BASES = (R + 2) / 3;
    const float *from[BASES];  // of every third row: the two rows after it are addressed relative to it
    EACH(r, BASES) from[r] = v + 3 * r * step;
    V sum[R][C] = {};
    _Pragma("GCC unroll 2")  // additions of addresses compete with multiply-adds for the same ports
    for (int64_t k = 0; k < in; k++, u += C * LANES, ahead += LANES) {
        __builtin_prefetch(ahead);
        V row[C];
        EACH(c, C) row[c] = read<float>(u + c * LANES);
        EACH(r, R) {
            const V value = splat<float>(from[r / 3][r % 3 * step]);
            EACH(c, C) sum[r][c] += value * row[c];
        }
        EACH(r, BASES) from[r]++;
    }
    if (add) EACH(r, R) EACH(c, C) sum[r][c] += read<float>(m + r * out + c * LANES);
    EACH(r, R) EACH(c, C) write<float>(m + r * out + c * LANES, sum[r][c]);
}

// LANES channels of `count` places times one vector of output channels: the weights stay in registers. The next matrix
// is prefetched.
NOT_INLINE static void multiply_narrow(const float *v, int64_t step, const float *u, int64_t count, float *m,
                                       bool add) {
    constexpr int R = SOME_ROWS;
    V weights[LANES];
    EACH(k, LANES) weights[k] = read<float>(u + k * LANES);
    const float *from[R];  // one address per row: an address that is a sum costs a second operation
    EACH(r, R) from[r] = v + r * step;
    for (int64_t t = 0; t < count; t += R, m += R * LANES) {
        if (t < 2 * R) EACH(k, LANES / 2) __builtin_prefetch(u + (LANES + (t ? LANES / 2 : 0) + k) * LANES);
        V sum[R] = {};
        if (add) EACH(r, R) sum[r] = read<float>(m + r * LANES);
        EACH(k, LANES) EACH(r, R) sum[r] += splat<float>(from[r][k]) * weights[k];
        EACH(r, R) write<float>(m + r * LANES, sum[r]), from[r] += R * step;
    }
}

// `count` places times C vectors of the `out` output channels.
template <int C>
static void multiply_all(const float *v, int64_t step, int64_t in, const float *u, int64_t out, int64_t count,
                         float *m, bool add) {
    for (int64_t t = 0; t < count;) {
        const auto next = [&](auto rows) {
            // prefetch the next columns, half of them during the first rows, half later: all at once, they arrive too
            // late; after the last columns this prefetches memory that is not needed
            const float *const ahead = u + (t ? 3 : 2) * in * LANES;
            multiply<rows(), C>(v + t * step, step, in, u, ahead, out, m + t * out, add);
            t += rows();
        };
        const int64_t rest = count - t;  // computes few places that are not needed
        if (rest > 2 * SOME_ROWS || (rest > SOME_ROWS && rest <= ROWS)) next(std::integral_constant<int, ROWS>{});
        else if (rest > FEW_ROWS) next(std::integral_constant<int, SOME_ROWS>{});
        else next(std::integral_constant<int, FEW_ROWS>{});
    }
}

// `count` places, rounded up to whole products, of `in` channels, `step` apart, times all output channels. The result
// is written to m, (count, out), or added to it if `add`. The matrix u is stored two vectors of output channels at a
// time, each pair as (in, 2 vectors); a last vector without a partner is stored as (in, 1 vector).
static void products(const float *v, int64_t step, int64_t in, const float *u, int64_t out, int64_t count, float *m,
                     bool add) {
    if (LANES == 16 && in == LANES && out == LANES) {  // the weights take 16 registers: AVX-512 has 32
        multiply_narrow(v, step, u, count, m, add);
        return;
    }
    int64_t o = 0;
    for (; o + 2 * LANES <= out; o += 2 * LANES) multiply_all<2>(v, step, in, u + o * in, out, count, m + o, add);
    if (o < out) multiply_all<1>(v, step, in, u + o * in, out, count, m + o, add);
}

}  // namespace
