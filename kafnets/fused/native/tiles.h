// Winograd's transforms of tiles of an image, of sums over channels, and of filters.
//
// 3x3 convolutions of stride 1 take a quarter of the multiplications by F(4x4, 3x3) (Lavin and Gray 2016): a tile of
// 4x4 outputs depends on 6x6 inputs; both are transformed, and between the transforms each of 36 frequencies is a
// matrix product over the channels. The transforms interpolate at 0, +-3/4, +-3/2 and infinity, which halves the
// rounding error of the usual points 0, +-1, +-2 and infinity.
//
// With stride 2, the first and the last tap of a row meet every second input, like a filter with two taps and stride 1.
// That is F(4, 2), at 0, +-3/4, 2 and infinity, with three quarters of the error of 0, +-1, 2 and infinity. The middle
// tap meets the other inputs and is not transformed. A row of four outputs takes nine multiplications instead of
// twelve, a tile 81 instead of 144.
#pragma once
#include "channels.h"

namespace {

constexpr int MATRICES = 6;  // of a transformed filter, in each direction

// One double per lane: filters are transformed in double precision and then rounded.
typedef double Wide __attribute__((vector_size(8 * LANES)));

// The transform of a tile in one direction, for stride 1: IN pixels to FREQUENCIES numbers; each of these is multiplied
// by the filter's matrix with the index matrix(f); the products are transformed to OUT pixels. The IN pixels of
// neighbouring tiles begin STEP pixels apart.
struct Same {
    static constexpr int IN = 6, FREQUENCIES = 6, OUT = 4, STEP = 4;
    static constexpr float A = 0.75f, B = 1.5f, AA = A * A, BB = B * B;

    static constexpr int matrix(int f) { return f; }

    static INLINE void in(const V (&d)[6], V (&v)[6]) {
        const V p0 = d[2] - BB * d[0], p1 = d[3] - BB * d[1], p2 = d[4] - BB * d[2], p3 = d[5] - BB * d[3];
        const V q1 = d[3] - AA * d[1], q2 = d[4] - AA * d[2];
        v[0] = p2 - AA * p0;
        v[1] = p2 + A * p1;
        v[2] = p2 - A * p1;
        v[3] = q2 + B * q1;
        v[4] = q2 - B * q1;
        v[5] = p3 - AA * p1;
    }

    static INLINE void out(const V (&m)[6], V (&y)[4]) {
        const V sum_a = m[1] + m[2], sum_b = m[3] + m[4], gap_a = m[1] - m[2], gap_b = m[3] - m[4];
        y[0] = m[0] + sum_a + sum_b;
        y[1] = A * gap_a + B * gap_b;
        y[2] = AA * sum_a + BB * sum_b;
        y[3] = (A * AA) * gap_a + ((B * BB) * gap_b + m[5]);
    }

    // The Toom-Cook matrix for the filter.
    static INLINE void filter(const Wide (&w)[3], Wide (&u)[6]) {
        constexpr double a = A, b = B, aa = a * a, bb = b * b;
        constexpr double at_a = 1 / (2 * aa * (aa - bb)), at_b = 1 / (2 * bb * (bb - aa));
        u[0] = w[0] * (1 / (aa * bb));
        u[1] = (w[0] + a * w[1] + aa * w[2]) * at_a;
        u[2] = (w[0] - a * w[1] + aa * w[2]) * at_a;
        u[3] = (w[0] + b * w[1] + bb * w[2]) * at_b;
        u[4] = (w[0] - b * w[1] + bb * w[2]) * at_b;
        u[5] = w[2];
    }
};

// What Shrink and Grow share: two taps, from five inputs to four outputs. The middle tap has four frequencies of its
// own, which all use one matrix.
struct Halves {
    static constexpr int FREQUENCIES = 9;
    static constexpr float A = 0.75f, B = 2, AA = A * A, BB = B * B;

    static constexpr int matrix(int f) { return f < 5 ? f : 5; }

    static INLINE void in(const V (&d)[5], V (&v)[9]) {
        const V p0 = d[1] - B * d[0], p1 = d[2] - B * d[1], p2 = d[3] - B * d[2], p3 = d[4] - B * d[3];
        v[0] = p2 - AA * p0;
        v[1] = p2 + A * p1;
        v[2] = p2 - A * p1;
        v[3] = d[3] - AA * d[1];
        v[4] = p3 - AA * p1;
    }

    static INLINE void out(const V (&m)[9], V (&y)[4]) {
        const V sum = m[1] + m[2], gap = m[1] - m[2];
        y[0] = m[0] + sum + m[3];
        y[1] = A * gap + B * m[3];
        y[2] = AA * sum + BB * m[3];
        y[3] = (A * AA) * gap + ((B * BB) * m[3] + m[4]);
    }

    static INLINE void filter(const Wide (&w)[3], Wide (&u)[6]) {
        constexpr double a = A, b = B, aa = a * a;
        u[0] = w[0] * (1 / (aa * b));
        u[1] = (w[0] + a * w[2]) * (1 / (2 * aa * (a - b)));
        u[2] = (w[0] - a * w[2]) * (1 / (-2 * aa * (a + b)));
        u[3] = (w[0] + b * w[2]) * (1 / (b * (b * b - aa)));
        u[4] = w[2];
        u[5] = w[1];
    }
};

// The convolution with stride 2.
struct Shrink : Halves {
    static constexpr int IN = 9, OUT = 4, STEP = 8;

    static INLINE void in(const V (&d)[9], V (&v)[9]) {
        const V outer[5] = {d[0], d[2], d[4], d[6], d[8]};
        Halves::in(outer, v);
        EACH(k, 4) v[5 + k] = d[1 + 2 * k];
    }

    static INLINE void out(const V (&m)[9], V (&y)[4]) {
        Halves::out(m, y);
        EACH(k, 4) y[k] += m[5 + k];
    }
};

// From the gradient of its outputs to that of its inputs; BEFORE zeros lie above and left of the image.
template <int BEFORE>
struct Grow : Halves {
    static constexpr int IN = 5, OUT = 8, STEP = 4;

    static INLINE void in(const V (&d)[5], V (&v)[9]) {
        Halves::in(d, v);
        EACH(k, 4) v[5 + k] = d[1 - BEFORE + k];
    }

    static INLINE void out(const V (&m)[9], V (&y)[8]) {
        V outer[4];
        Halves::out(m, outer);
        EACH(k, 4) y[2 * k + BEFORE] = outer[k], y[2 * k + 1 - BEFORE] = m[5 + k];
    }
};

// Transform one vector of channels of a tile's pixels in columns [begin, end); other columns count as zero. `at` is the
// offset of the first column in rows and gates.
template <class Tile, bool EDGE, bool GATED>
NOT_INLINE static void tile_in(const float *const (&rows)[Tile::IN], const Gate *const (&gates)[Tile::IN], int64_t at,
                               int64_t pixel, int begin, int end, float *to, int64_t step) {
    constexpr int IN = Tile::IN, FREQUENCIES = Tile::FREQUENCIES;
    V half[FREQUENCIES][IN];
    EACH(j, IN) {
        V d[IN] = {}, columns[FREQUENCIES];
        if (!EDGE || (j >= begin && j < end)) {
            EACH(i, IN) d[i] = read<float>(rows[i] + at + j * pixel);
            if constexpr (GATED) EACH(i, IN) d[i] = gated(d[i], gates[i][(at + j * pixel) / LANES]);
        }
        Tile::in(d, columns);
        EACH(i, FREQUENCIES) half[i][j] = columns[i];
    }
    EACH(i, FREQUENCIES) {
        V done[FREQUENCIES];
        Tile::in(half[i], done);
        EACH(j, FREQUENCIES) {
            float *const at = to + (i * FREQUENCIES + j) * step;
            __builtin_prefetch(at + LANES, 1);  // where the next vector will be written
            write<float>(at, done[j]);
        }
    }
}

// One vector of channels of a tile's sums: the first half of their transform, along columns.
template <class Tile>
static INLINE void half_out(const float *from, int64_t step, V (&half)[Tile::OUT][Tile::FREQUENCIES]) {
    EACH(j, Tile::FREQUENCIES) {
        V columns[Tile::FREQUENCIES], rows[Tile::OUT];
        EACH(i, Tile::FREQUENCIES) columns[i] = read<float>(from + (i * Tile::FREQUENCIES + j) * step);
        Tile::out(columns, rows);
        EACH(i, Tile::OUT) half[i][j] = rows[i];
    }
}

}  // namespace
