/* Signed bytes by signed bytes, the baseline: SMULL and SMLAL into 16-bit lanes, SADALP into 32-bit ones.

   Two products of bytes fit into 16 bits unless both are (-128) * (-128): 2 * 128 * 127 = 32512 < 2^15 = 2 * 128 * 128.
   Weights of -128 by activations of -128 take the second function, which widens after every product. */

#include "frame.h"

enum { ROWS = 4 };

INLINE int32x4_t sum_of_4(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  return vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
}

INLINE void tile(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                 const int32_t *window, int32_t *out, const int rows, int channels, const int run) {
  int32x4_t sum[ROWS][CHANNELS];
  UNROLL for (int i = 0; i < rows; ++i) {
    UNROLL for (int j = 0; j < CHANNELS; ++j) sum[i][j] = vdupq_n_s32(0);
  }
  UNROLL_BY(4) for (int left = s->steps; left > 0; --left) {
    int8x16_t x[ROWS], y[CHANNELS];
    UNROLL for (int i = 0; i < rows; ++i) x[i] = vld1q_s8(a + i * 16);
    UNROLL for (int j = 0; j < CHANNELS; ++j) y[j] = vld1q_s8(w + j * 16);
    UNROLL for (int j = 0; j < CHANNELS; ++j) {
      UNROLL for (int i = 0; i < rows; ++i) {
        const int16x8_t low = vmull_s8(vget_low_s8(x[i]), vget_low_s8(y[j]));
        if (run == 2) {
          sum[i][j] = vpadalq_s16(sum[i][j], vmlal_high_s8(low, x[i], y[j]));
        } else {
          sum[i][j] = vpadalq_s16(vpadalq_s16(sum[i][j], low), vmull_high_s8(x[i], y[j]));
        }
      }
    }
    a += rows * 16, w += CHANNELS * 16;
  }
  int32x4_t total[ROWS];
  UNROLL for (int i = 0; i < rows; ++i) total[i] = sum_of_4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
  store(s, out, total, constant, window, rows, channels);
}

#define DISPATCH(RUN)                                                              \
  switch (rows) {                                                                  \
    case 1: tile(s, a, w, constant, window, out, 1, channels, RUN); break;         \
    case 2: tile(s, a, w, constant, window, out, 2, channels, RUN); break;         \
    case 3: tile(s, a, w, constant, window, out, 3, channels, RUN); break;         \
    default: tile(s, a, w, constant, window, out, 4, channels, RUN);               \
  }

static void tile_of_pairs(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                          const int32_t *window, int32_t *out, int rows, int channels) {
  DISPATCH(2)
}

static void tile_of_singles(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                            const int32_t *window, int32_t *out, int rows, int channels) {
  DISPATCH(1)
}

/* Both need what convolve needs, with most = 4. */
EXPORT void qg_int8(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work) {
  convolve(s, x, w, out, work, ROWS, 1, 1, tile_of_pairs, sum_steps);
}

EXPORT void qg_int8_single(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work) {
  convolve(s, x, w, out, work, ROWS, 1, 1, tile_of_singles, sum_steps);
}
