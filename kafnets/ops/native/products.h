// Places times matrices: vectors of channels at some places of images, or of tiles, times weights.
#pragma once
#include "channels.h"

namespace {

#if defined(__AVX512F__)
constexpr int ROWS = 12, SOME_ROWS = 8, FEW_ROWS = 4;  // places whose sums stay in registers; fewer at the end
#else
constexpr int ROWS = 6, SOME_ROWS = 4, FEW_ROWS = 2;
#endif
constexpr int64_t FEW_TERMS = 64;  // that are summed in one go
constexpr int MOST_TAPS = 32;

// R places times C vectors of output channels, added up over taps: `v` and `u` hold where each begins. Places are
// `step` apart; u is (in, C vectors). Taps of many channels are summed each by itself, so that fewer terms round on top
// of each other. On the way `in` vectors of weights are fetched, from `ahead` on.
template <int R, int C>
NOT_INLINE static void multiply(int taps, const float *const *v, int64_t step, int64_t in, const float *const *u,
                                int64_t ahead, int64_t out, float *m) {
    const bool apart = taps * in > FEW_TERMS;
    V sum[R][C] = {};
    for (int tap = 0; tap < taps; tap++) {
        constexpr int BASES = (R + 2) / 3;
        const float *from[BASES], *weights = u[tap];  // every third row: an address reaches the two after it
        EACH(r, BASES) from[r] = v[tap] + 3 * r * step;
        for (int64_t k = 0; k < in; k++, weights += C * LANES) {
            __builtin_prefetch(u[tap] + ahead + k * LANES);
            V row[C];
            EACH(c, C) row[c] = read<float>(weights + c * LANES);
            EACH(r, R) {
                const V value = splat<float>(from[r / 3][r % 3 * step]);
                EACH(c, C) sum[r][c] += value * row[c];
            }
            EACH(r, BASES) from[r]++;
        }
        if (!apart && tap + 1 < taps) continue;
        EACH(r, R) EACH(c, C) {
            float *const to = m + r * out + c * LANES;
            write<float>(to, apart && tap ? read<float>(to) + sum[r][c] : sum[r][c]);
            sum[r][c] = V{};
        }
    }
}

// LANES channels of `count` places, `step` apart, times one vector of output channels, added to m if `add`: the weights
// stay in registers.
NOT_INLINE static void multiply_narrow(const float *v, int64_t step, const float *u, int64_t count, float *m,
                                       bool add) {
    constexpr int R = SOME_ROWS;
    V weights[LANES];
    EACH(k, LANES) weights[k] = read<float>(u + k * LANES);
    const float *from[R];  // an address each: one that is added up takes the processor a second operation
    EACH(r, R) from[r] = v + r * step;
    for (int64_t t = 0; t < count; t += R, m += R * LANES) {
        V sum[R] = {};
        if (add) EACH(r, R) sum[r] = read<float>(m + r * LANES);
        EACH(k, LANES) EACH(r, R) sum[r] += splat<float>(from[r][k]) * weights[k];
        EACH(r, R) write<float>(m + r * LANES, sum[r]), from[r] += R * step;
    }
}

// What a place is multiplied with: so many channels in a row, from `v` on, times the matrix `u`; all of them added up.
struct Taps {
    const int64_t channels;
    int count = 0;
    const float *v[MOST_TAPS], *u[MOST_TAPS];

    void add(const float *places, const float *weights) { v[count] = places, u[count++] = weights; }
};

// `count` places, rounded up to whole products, `step` apart, times all output channels: m is (count, out). There is at
// least one tap. Matrices hold two vectors of output channels at a time, (channels, 2 vectors); an odd last one alone.
static void products(const Taps &taps, int64_t step, int64_t out, int64_t count, float *m) {
    const float *places[MOST_TAPS], *columns[MOST_TAPS];
    if (LANES == 16 && out == LANES && taps.channels % LANES == 0) {  // with as many registers to spare
        for (int tap = 0; tap < taps.count; tap++)
            for (int64_t k = 0; k < taps.channels; k += LANES)
                multiply_narrow(taps.v[tap] + k, step, taps.u[tap] + k * LANES, count, m, tap || k);
        return;
    }
    for (int64_t o = 0; o < out; o += 2 * LANES) {
        const bool two = out - o >= 2 * LANES;
        for (int tap = 0; tap < taps.count; tap++) columns[tap] = taps.u[tap] + o * taps.channels;
        for (int64_t t = 0; t < count;) {
            const auto next = [&](auto rows) {
                for (int tap = 0; tap < taps.count; tap++) places[tap] = taps.v[tap] + t * step;
                const auto work = two ? multiply<rows(), 2> : multiply<rows(), 1>;
                // the next columns, half of them during the first rows, half later: all at once they come too late;
                // what lies behind the last ones is fetched for nothing
                const int64_t ahead = (t ? 3 : 2) * taps.channels * LANES;
                work(taps.count, places, step, taps.channels, columns, ahead, out, m + t * out + o);
                t += rows();
            };
            const int64_t rest = count - t;  // places that are computed for nothing are few
            if (rest > 2 * SOME_ROWS || (rest > SOME_ROWS && rest <= ROWS)) next(std::integral_constant<int, ROWS>{});
            else if (rest > FEW_ROWS) next(std::integral_constant<int, SOME_ROWS>{});
            else next(std::integral_constant<int, FEW_ROWS>{});
        }
    }
}

}  // namespace
