/* One-bit weights by one- or two-bit activations: AND and CNT, 128 products at a time.

   The bits of activations are packed first, pixel by pixel, each pixel from a byte of its own; the two bits of a code
   go into two images (planes), whose windows are neighbouring rows of a tile. A lane of CNT is at most 8, so that 31
   of them fit into 8 bits: 248; 32 overflow. */

#include "frame.h"

#ifndef RUN
#define RUN 31
#endif

INLINE int32x4_t add_counts(int32x4_t sum, uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
  const uint16x8_t low = vpaddq_u16(vpaddlq_u8(a), vpaddlq_u8(b)), high = vpaddq_u16(vpaddlq_u8(c), vpaddlq_u8(d));
  return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sum), vpaddq_u16(low, high)));
}

/* Count the bits that windows and weights share in one step; the first is not added to anything. */
INLINE void count_step(uint8x16_t part[MOST_ROWS][CHANNELS], const int8_t *a, const int8_t *w, const int rows,
                       const int is_first) {
  uint8x16_t y[CHANNELS];
  UNROLL for (int j = 0; j < CHANNELS; ++j) y[j] = vreinterpretq_u8_s8(vld1q_s8(w + j * 16));
  UNROLL for (int i = 0; i < rows; ++i) {
    const uint8x16_t x = vreinterpretq_u8_s8(vld1q_s8(a + i * 16));
    UNROLL for (int j = 0; j < CHANNELS; ++j) {
      const uint8x16_t count = vcntq_u8(vandq_u8(x, y[j]));
      part[i][j] = is_first ? count : vaddq_u8(part[i][j], count);
    }
    FINISH(part[i]);
  }
}

INLINE void tile(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                 const int32_t *window, int32_t *out, const int pixels, const int planes, int channels) {
  const int rows = pixels * planes;
  int32x4_t sum[MOST_ROWS];
  UNROLL for (int i = 0; i < rows; ++i) sum[i] = vdupq_n_s32(0);
  for (int rest = s->steps; rest > 0;) {
    int left = rest < RUN ? rest : RUN;
    rest -= left;
    uint8x16_t part[MOST_ROWS][CHANNELS];
    count_step(part, a, w, rows, 1);
    UNROLL_BY(2) while (a += rows * 16, w += CHANNELS * 16, --left) count_step(part, a, w, rows, 0);
    UNROLL for (int i = 0; i < rows; ++i) sum[i] = add_counts(sum[i], part[i][0], part[i][1], part[i][2], part[i][3]);
  }
  if (planes == 2) {
    UNROLL for (int i = 0; i < pixels; ++i) sum[i] = vaddq_s32(sum[2 * i], vshlq_n_s32(sum[2 * i + 1], 1));
  }
  store(s, out, sum, constant, window, pixels, channels);
}

static void tile_of_1_bit(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                          const int32_t *window, int32_t *out, int pixels, int channels) {
#define TILE(PIXELS) tile(s, a, w, constant, window, out, PIXELS, 1, channels)
  FOR_CONSTANT(pixels, TILE)
#undef TILE
}

static void tile_of_2_bits(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                           const int32_t *window, int32_t *out, int pixels, int channels) {
  switch (pixels) {
    case 1: tile(s, a, w, constant, window, out, 1, 2, channels); break;
    case 2: tile(s, a, w, constant, window, out, 2, 2, channels); break;
    default: tile(s, a, w, constant, window, out, 3, 2, channels);
  }
}

/* Window sums of codes, whose bits are in `planes` windows. */
INLINE void sum_bits(const struct shape *s, const int8_t *a, int32_t *window, int pixels, const int planes) {
  for (int i = 0; i < pixels; ++i) {
    int32_t total = 0;
    for (int p = 0; p < planes; ++p) {
      const uint8_t *from = (const uint8_t *)a + (i * planes + p) * 16;
      uint32x4_t sum = vdupq_n_u32(0);
      for (int k = 0; k < s->steps; ++k, from += pixels * planes * 16) {
        sum = vpadalq_u16(sum, vpaddlq_u8(vcntq_u8(vld1q_u8(from))));
      }
      total += (int32_t)vaddvq_u32(sum) << p;
    }
    window[i] = total * s->window;
  }
}

static void sum_1_bit(const struct shape *s, const int8_t *a, int32_t *window, int pixels) {
  sum_bits(s, a, window, pixels, 1);
}

static void sum_2_bits(const struct shape *s, const int8_t *a, int32_t *window, int pixels) {
  sum_bits(s, a, window, pixels, 2);
}

/* Bit `plane` of 16 codes, each in its place within a byte. */
INLINE uint8x16_t in_place(const uint8_t *x, int8x16_t places, uint8x16_t bit) {
  return vshlq_u8(vandq_u8(vld1q_u8(x), bit), places);
}

/* Bit `plane` of each code, packed; a pixel takes ceil(c / 8) bytes, in which the first channel is the lowest bit.
   Needs x[pixels * c] and to[pixels * ceil(c / 8)]. */
INLINE void pack_bits(const uint8_t *x, int64_t pixels, int c, int plane, uint8_t *to) {
  if (c % 8) {
    for (; pixels > 0; --pixels, x += c) {
      for (int start = 0; start < c; start += 8) {
        unsigned byte = 0;
        for (int i = start; i < c && i < start + 8; ++i) byte |= (x[i] >> plane & 1u) << (i - start);
        *to++ = (uint8_t)byte;
      }
    }
    return;
  }
  static const int8_t within[16] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7};
  const int8x16_t places = vsubq_s8(vld1q_s8(within), vdupq_n_s8((int8_t)plane));
  const uint8x16_t bit = vdupq_n_u8((uint8_t)(1 << plane));
  int64_t bytes = pixels * c / 8;
  for (; bytes >= 16; bytes -= 16, to += 16, x += 128) {
    uint8x16_t pairs[4];
    UNROLL for (int i = 0; i < 4; ++i) {
      pairs[i] = vpaddq_u8(in_place(x + 32 * i, places, bit), in_place(x + 32 * i + 16, places, bit));
    }
    vst1q_u8(to, vpaddq_u8(vpaddq_u8(pairs[0], pairs[1]), vpaddq_u8(pairs[2], pairs[3])));
  }
  for (; bytes > 0; --bytes, x += 8) {
    *to++ = vaddv_u8(vshl_u8(vand_u8(vld1_u8(x), vget_low_u8(bit)), vget_low_s8(places)));
  }
}

/* Both need what convolve needs of w, out and work, with most = 6 / planes, where s->c are the bytes of a packed pixel,
   ceil(*channels / 8); x[n * h * w * *channels]; and behind that work, planes * n * h * w * s->c bytes. */
EXPORT void qg_popcount(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work,
                        const int32_t *channels) {
  uint8_t *bits = work + PANEL * 6 * 4 + (PANEL * 6 + 1) * s->steps * 16;
  pack_bits(x, (int64_t)s->n * s->h * s->w, *channels, 0, bits);
  convolve(s, bits, w, out, work, 6, 1, 1, tile_of_1_bit, sum_1_bit);
}

EXPORT void qg_popcount2(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work,
                         const int32_t *channels) {
  uint8_t *bits = work + PANEL * 3 * 4 + (PANEL * 6 + 1) * s->steps * 16;
  const int64_t pixels = (int64_t)s->n * s->h * s->w;
  pack_bits(x, pixels, *channels, 0, bits);
  pack_bits(x, pixels, *channels, 1, bits + pixels * s->c);
  convolve(s, bits, w, out, work, 3, 2, 1, tile_of_2_bits, sum_2_bits);
}
