/* Few bits by few bits: MLA in 8-bit lanes for as long as they cannot overflow, then widening.

   Activations are stored less 2^(a-1), in [-2^(a-1), 2^(a-1) - 1]; weights negated, in [-2^(b-1) + 1, 2^(b-1)]. A
   product is then at least -2^(a+b-2) and less than 2^(a+b-2) in magnitude if positive, so that 2^(9-a-b) of them fit
   into 8 bits: -128 is attained, one more overflows. */

#include "frame.h"

#ifndef PAIRS
#define PAIRS 128 /* that a 16-bit lane holds: each adds two sums of 8 bits, at least -128 each; 128 * 256 = 2^15 */
#endif

enum { SHORT = 8, ROWS_OF_PAIRS = 4 }; /* a run that is common; pixels of a tile of pairs */

/* The sum of each of four vectors. Needs lanes whose sums in fours fit into 16 bits, as any do. */
INLINE int32x4_t add_sums(int32x4_t sum, int8x16_t a, int8x16_t b, int8x16_t c, int8x16_t d) {
  const int16x8_t low = vpaddq_s16(vpaddlq_s8(a), vpaddlq_s8(b)), high = vpaddq_s16(vpaddlq_s8(c), vpaddlq_s8(d));
  return vpadalq_s16(sum, vpaddq_s16(low, high));
}

/* Multiply windows by weights in one step; the first is not added to anything. */
INLINE void multiply_step(int8x16_t part[MOST_ROWS][CHANNELS], const int8_t *a, const int8_t *w, const int rows,
                          const int is_first) {
  int8x16_t y[CHANNELS];
  UNROLL for (int j = 0; j < CHANNELS; ++j) y[j] = vld1q_s8(w + j * 16);
  UNROLL for (int i = 0; i < rows; ++i) {
    const int8x16_t x = vld1q_s8(a + i * 16);
    UNROLL for (int j = 0; j < CHANNELS; ++j) {
      part[i][j] = is_first ? vmulq_s8(x, y[j]) : vmlaq_s8(part[i][j], x, y[j]);
    }
  }
}

/* Runs of up to s->run steps. */
INLINE void tile(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                 const int32_t *window, int32_t *out, const int rows, int channels) {
  int32x4_t sum[MOST_ROWS];
  UNROLL for (int i = 0; i < rows; ++i) sum[i] = vdupq_n_s32(0);
  for (int rest = s->steps; rest > 0;) {
    int left = rest < s->run ? rest : s->run;
    rest -= left;
    int8x16_t part[MOST_ROWS][CHANNELS];
    multiply_step(part, a, w, rows, 1);
    if (left == SHORT) { /* without a loop */
      UNROLL for (int k = 1; k < SHORT; ++k) multiply_step(part, a + k * rows * 16, w + k * CHANNELS * 16, rows, 0);
      a += SHORT * rows * 16, w += SHORT * CHANNELS * 16;
    } else {
      UNROLL_BY(4) while (a += rows * 16, w += CHANNELS * 16, --left) multiply_step(part, a, w, rows, 0);
    }
    UNROLL for (int i = 0; i < rows; ++i) sum[i] = add_sums(sum[i], part[i][0], part[i][1], part[i][2], part[i][3]);
  }
  store(s, out, sum, constant, window, rows, channels);
}

static void tile_of_runs(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                         const int32_t *window, int32_t *out, int pixels, int channels) {
#define TILE(PIXELS) tile(s, a, w, constant, window, out, PIXELS, channels)
  FOR_CONSTANT(pixels, TILE)
#undef TILE
}

/* Runs of two: MUL, MLA and SADALP into 16-bit lanes, which are held for PAIRS of runs. Needs steps in pairs. */
INLINE void tile_2(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                   const int32_t *window, int32_t *out, const int rows, int channels) {
  int32x4_t sum[ROWS_OF_PAIRS];
  UNROLL for (int i = 0; i < rows; ++i) sum[i] = vdupq_n_s32(0);
  for (int rest = s->steps; rest > 0;) {
    int left = rest < 2 * PAIRS ? rest : 2 * PAIRS;
    rest -= left;
    int16x8_t part[ROWS_OF_PAIRS][CHANNELS];
    UNROLL for (int i = 0; i < rows; ++i) {
      UNROLL for (int j = 0; j < CHANNELS; ++j) part[i][j] = vdupq_n_s16(0);
    }
    UNROLL_BY(2) for (; left > 0; left -= 2, a += 2 * rows * 16, w += 2 * CHANNELS * 16) {
      int8x16_t y[2][CHANNELS];
      UNROLL for (int j = 0; j < CHANNELS; ++j) {
        y[0][j] = vld1q_s8(w + j * 16), y[1][j] = vld1q_s8(w + (CHANNELS + j) * 16);
      }
      UNROLL for (int i = 0; i < rows; ++i) {
        const int8x16_t one = vld1q_s8(a + 2 * i * 16), two = vld1q_s8(a + (2 * i + 1) * 16);
        UNROLL for (int j = 0; j < CHANNELS; ++j) {
          part[i][j] = vpadalq_s8(part[i][j], vmlaq_s8(vmulq_s8(one, y[0][j]), two, y[1][j]));
        }
        FINISH(part[i]);
      }
    }
    UNROLL for (int i = 0; i < rows; ++i) {
      const int32x4_t low = vpaddq_s32(vpaddlq_s16(part[i][0]), vpaddlq_s16(part[i][1]));
      const int32x4_t high = vpaddq_s32(vpaddlq_s16(part[i][2]), vpaddlq_s16(part[i][3]));
      sum[i] = vaddq_s32(sum[i], vpaddq_s32(low, high));
    }
  }
  store(s, out, sum, constant, window, rows, channels);
}

static void tile_of_pairs(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                          const int32_t *window, int32_t *out, int rows, int channels) {
  switch (rows) {
    case 1: tile_2(s, a, w, constant, window, out, 1, channels); break;
    case 2: tile_2(s, a, w, constant, window, out, 2, channels); break;
    case 3: tile_2(s, a, w, constant, window, out, 3, channels); break;
    default: tile_2(s, a, w, constant, window, out, 4, channels);
  }
}

/* Needs what convolve needs, with most = 6. */
EXPORT void qg_mla(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work) {
  convolve(s, x, w, out, work, MOST_ROWS, 1, 1, tile_of_runs, sum_steps);
}

/* For runs of two. Needs what convolve needs, with most = 4, and steps in pairs. */
EXPORT void qg_mla2(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work) {
  convolve(s, x, w, out, work, ROWS_OF_PAIRS, 1, 2, tile_of_pairs, sum_pairs);
}
