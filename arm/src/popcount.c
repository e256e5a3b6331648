/* One-bit weights by one- or two-bit activations: AND and CNT, 128 products at a time.

   The bits of activations are packed first, pixel by pixel, each pixel from a byte of its own; the two bits of a code
   go into two images (planes), whose windows are neighbouring rows of a tile. A lane of CNT is at most 8, so that 31
   of them fit into 8 bits: 248; 32 overflow. */

#include "frame.h"

enum { RUN = 31 };

INLINE int32x4_t add_counts(int32x4_t sum, uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) {
  const uint16x8_t low = vpaddq_u16(vpaddlq_u8(a), vpaddlq_u8(b)), high = vpaddq_u16(vpaddlq_u8(c), vpaddlq_u8(d));
  return vreinterpretq_s32_u32(vpadalq_u16(vreinterpretq_u32_s32(sum), vpaddq_u16(low, high)));
}

INLINE void tile(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                 const int32_t *window, int32_t *out, const int rows, int channels) {
  int32x4_t sum[MOST_ROWS];
  UNROLL for (int i = 0; i < rows; ++i) sum[i] = vdupq_n_s32(0);
  for (int rest = s->steps; rest > 0;) {
    int left = rest < RUN ? rest : RUN;
    rest -= left;
    uint8x16_t part[MOST_ROWS][CHANNELS];
    UNROLL for (int i = 0; i < rows; ++i) {
      UNROLL for (int j = 0; j < CHANNELS; ++j) part[i][j] = vdupq_n_u8(0);
    }
    do {
      uint8x16_t y[CHANNELS];
      UNROLL for (int j = 0; j < CHANNELS; ++j) y[j] = vreinterpretq_u8_s8(vld1q_s8(w + j * 16));
      UNROLL for (int i = 0; i < rows; ++i) {
        const uint8x16_t x = vreinterpretq_u8_s8(vld1q_s8(a + i * 16));
        UNROLL for (int j = 0; j < CHANNELS; ++j) part[i][j] = vaddq_u8(part[i][j], vcntq_u8(vandq_u8(x, y[j])));
      }
      a += rows * 16, w += CHANNELS * 16;
    } while (--left);
    UNROLL for (int i = 0; i < rows; ++i) sum[i] = add_counts(sum[i], part[i][0], part[i][1], part[i][2], part[i][3]);
  }
  const int32x4_t constants = vld1q_s32(constant);
  UNROLL for (int i = 0; i < rows; ++i) store(s, out + (int64_t)i * s->o, sum[i], constants, window[i], channels);
}

static void tile_of_one_plane(const struct shape *s, const int8_t *a, const int8_t *w, const int32_t *constant,
                              const int32_t *window, int32_t *out, int rows, int channels) {
  switch (rows) {
    case 1: tile(s, a, w, constant, window, out, 1, channels); break;
    case 2: tile(s, a, w, constant, window, out, 2, channels); break;
    case 3: tile(s, a, w, constant, window, out, 3, channels); break;
    case 4: tile(s, a, w, constant, window, out, 4, channels); break;
    case 5: tile(s, a, w, constant, window, out, 5, channels); break;
    default: tile(s, a, w, constant, window, out, 6, channels);
  }
}

/* Window sums of bits, times s->window. */
INLINE void sum_bits(const struct shape *s, const int8_t *a, int32_t *window, int rows) {
  for (int i = 0; i < rows; ++i) {
    int32_t sum = 0;
    for (int k = 0; k < s->steps; ++k) sum += vaddvq_u8(vcntq_u8(vld1q_u8((const uint8_t *)a + (k * rows + i) * 16)));
    window[i] = sum * s->window;
  }
}

/* Bit `plane` of each code, packed; a pixel takes ceil(c / 8) bytes, in which the first channel is the lowest bit. */
INLINE void pack_bits(const uint8_t *x, int64_t pixels, int c, int plane, uint8_t *to) {
  for (int64_t p = 0; p < pixels; ++p) {
    for (int start = 0; start < c; start += 8) {
      unsigned byte = 0;
      for (int i = start; i < c && i < start + 8; ++i) byte |= (x[i] >> plane & 1u) << (i - start);
      *to++ = (uint8_t)byte;
    }
    x += c;
  }
}

/* Needs what convolve needs, with most = 6, for the packed image, whose pixels take s->c bytes; x has `channels` codes a
   pixel; and behind that work, n * h * w * s->c bytes. */
EXPORT void qg_popcount(const struct shape *s, const uint8_t *x, const int8_t *w, int32_t *out, uint8_t *work,
                        const int32_t *channels) {
  uint8_t *bits = work + (PANEL * MOST_ROWS + 1) * s->steps * 16 + PANEL * MOST_ROWS * 4;
  pack_bits(x, (int64_t)s->n * s->h * s->w, *channels, 0, bits);
  convolve(s, bits, w, out, work, MOST_ROWS, tile_of_one_plane, sum_bits);
}
