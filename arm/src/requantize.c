/* Sums to the codes of the next layer. */

#include "frame.h"

/* Needs sums[rows * channels], thresholds[levels][channels], flip[channels], 0 or -1, and codes[rows * channels].
   code = number of thresholds that (sum ^ flip) reaches. shape is {rows, channels, levels}. */
EXPORT void qg_requantize(const int32_t *shape, const int32_t *sums, const int32_t *thresholds, const int32_t *flip,
                          uint8_t *codes) {
  const int rows = shape[0], channels = shape[1], levels = shape[2];
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < channels; ++o) {
      int code = 0;
      for (int k = 0; k < levels; ++k) code += (sums[o] ^ flip[o]) >= thresholds[k * channels + o];
      codes[o] = (uint8_t)code;
    }
    sums += channels, codes += channels;
  }
}
