// k-winners-take-all on rows of floating point numbers, with exact thresholds.
//
// Numbers are compared as integer keys in the order of their values. The key of -infinity is 0; the subtraction for
// this wraps negative NaNs around to the top, so that the key of every NaN is above that of infinity. Only the two zeros
// are equal numbers with different keys: a threshold of zero gets the lower one.
//
// A threshold is found by histograms of the keys' digits, highest digit first. After each histogram only the keys that
// agree with the threshold's digits so far are left: after the first, a few percent of most rows.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>

namespace {

using Index = std::int64_t;
using Word = std::uint32_t;  // one bit for each of 32 neighbouring values: whether it is kept

constexpr Index WORD = 32;
// 8 to 11 bits per digit take 6.6 to 5.5 ms for 128 rows of 32768, and 9 to 18 ms for as many numbers in rows of 128
constexpr int DIGIT = 10;
constexpr Index FEW = 24;  // up to this many keys nth_element is faster than another histogram

// `U` holds the bits of a number, `INFINITE` are those of +infinity.
template <typename U, U INFINITE>
struct Format {
    static constexpr U SIGN = U(U(1) << (8 * sizeof(U) - 1));
    static constexpr U LOWEST = U(~(SIGN | INFINITE));

    static constexpr U key(U bits) { return U((bits & SIGN ? U(~bits) : U(bits | SIGN)) - LOWEST); }

    static constexpr U bits(U key) {
        const U ordered = U(key + LOWEST);
        return ordered & SIGN ? U(ordered ^ SIGN) : U(~ordered);
    }
};

// Call `step(j)` for each value of a word; the loop over a full word has a constant length and becomes vector code.
template <typename Step>
void lanes(Index left, Step step) {
    if (left >= WORD) {
        for (Index j = 0; j < WORD; j++) step(j);
    } else {
        for (Index j = 0; j < left; j++) step(j);
    }
}

template <typename U, U INFINITE>
class Row {
    using F = Format<U, INFINITE>;

public:
    Row(const U* values, Index size) : values(values), size(size) {}

    // The key of the `count`-th largest value; NaN counts as infinite, -0 as +0 as -0. `scratch` holds `size` keys.
    U threshold(Index count, U* scratch) const {
        for (Index i = 0; i < size; i++) scratch[i] = F::key(values[i]);
        const U found = largest(scratch, size, count);
        return found == F::key(0) ? F::key(F::SIGN) : std::min(found, F::key(INFINITE));
    }

    // Copy the values that reach the threshold, write 0 for the others, and set the bits of those that are kept.
    void select(U threshold, U* out, Word* kept) const {
        for (Index start = 0; start < size; start += WORD) {
            Word word = 0;
            lanes(size - start, [&](Index j) {
                const bool keep = F::key(values[start + j]) >= threshold;
                out[start + j] = keep ? values[start + j] : U(0);
                word |= Word(keep) << j;
            });
            *kept++ = word;
        }
    }

private:
    // The `rank`-th largest of `count` keys; reorders and overwrites them.
    static U largest(U* keys, Index count, Index rank) {
        U base = 0, span = U(~U(0));
        while (span && count > FEW) {
            int shift = 0;
            while (U(span >> shift) >> DIGIT) shift++;
            Index counts[1 << DIGIT] = {};
            for (Index i = 0; i < count; i++) counts[keys[i] >> shift]++;
            U digit = U(span >> shift);
            for (; counts[digit] < rank; digit--) rank -= counts[digit];
            span = U((U(1) << shift) - 1);
            Index left = 0;
            for (Index i = 0; i < count; i++) {
                const U key = keys[i];
                keys[left] = U(key & span);
                left += U(key >> shift) == digit;
            }
            count = left;
            base = U(base + U(digit << shift));
        }
        if (span) {
            std::nth_element(keys, keys + rank - 1, keys + count, std::greater<U>());
            base = U(base + keys[rank - 1]);
        }
        return base;
    }

    const U* values;
    Index size;
};

// Call `work(row, scratch)` for every row, on several threads with scratch memory of `size` numbers each.
template <typename U, typename Work>
void for_rows(Index rows, Index size, int threads, Work work) {
#pragma omp parallel num_threads(threads) if (threads > 1 && rows > 1)
    {
        const std::unique_ptr<U[]> scratch(new U[size]);
#pragma omp for schedule(static)
        for (Index row = 0; row < rows; row++) work(row, scratch.get());
    }
}

template <typename U, U INFINITE>
void thresholds(const U* x, U* out, Index rows, Index size, Index count, int threads) {
    for_rows<U>(rows, size, threads, [=](Index row, U* scratch) {
        const U key = Row<U, INFINITE>(x + row * size, size).threshold(count, scratch);
        out[row] = Format<U, INFINITE>::bits(key);
    });
}

template <typename U, U INFINITE>
void select(const U* x, U* out, Word* kept, Index rows, Index size, Index count, int threads) {
    const Index words = (size + WORD - 1) / WORD;
    for_rows<U>(rows, size, threads, [=](Index row, U* scratch) {
        const Row<U, INFINITE> values(x + row * size, size);
        values.select(values.threshold(count, scratch), out + row * size, kept + row * words);
    });
}

template <typename U>
void masked(const U* x, const Word* kept, U* out, Index rows, Index size, int threads) {
    const Index words = (size + WORD - 1) / WORD;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
    for (Index row = 0; row < rows; row++) {
        for (Index w = 0; w < words; w++) {
            const Word word = kept[row * words + w];
            const Index start = row * size + w * WORD;
            lanes(size - w * WORD, [=](Index j) { out[start + j] = word >> j & 1 ? x[start + j] : U(0); });
        }
    }
}

}  // namespace

// Contiguous rows of `size` numbers; `kept` has ceil(size / 32) words per row. 1 <= count <= size.
#define FOR_FORMAT(name, U, INFINITE)                                                                                 \
    extern "C" void kwta_thresholds_##name(const U* x, U* out, Index rows, Index size, Index count, int threads) {    \
        thresholds<U, INFINITE>(x, out, rows, size, count, threads);                                                  \
    }                                                                                                                 \
    extern "C" void kwta_select_##name(                                                                               \
        const U* x, U* out, Word* kept, Index rows, Index size, Index count, int threads) {                           \
        select<U, INFINITE>(x, out, kept, rows, size, count, threads);                                                \
    }                                                                                                                 \
    extern "C" void kwta_masked_##name(const U* x, const Word* kept, U* out, Index rows, Index size, int threads) {   \
        masked<U>(x, kept, out, rows, size, threads);                                                                 \
    }

FOR_FORMAT(float64, std::uint64_t, 0x7FF0000000000000u)
FOR_FORMAT(float32, std::uint32_t, 0x7F800000u)
FOR_FORMAT(float16, std::uint16_t, 0x7C00u)
FOR_FORMAT(bfloat16, std::uint16_t, 0x7F80u)
