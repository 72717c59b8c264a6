"""How alike candidates are: rows of length one, so that their products are cosines.

Shapes: K candidates · D width.
"""

import numpy as np

_SIGN_AND_REST = np.int32(np.uint32(0x8FFFE000).view(np.int32))
_BIAS = np.float32(2.0**112)
_BEYOND_HALF = 65536.0  # the power of two after the largest half, 65504


def unit(vector_KD: np.ndarray) -> np.ndarray:
    """float32 (K, D), every row of length one; a row of zeros stays so, and resembles nothing. The argument is left as it was.

    Raises:
        ValueError: a row holds a number that is not finite, or is so long that its square is not.
    """
    half = vector_KD.dtype == np.float16
    row_KD = _from_half(vector_KD) if half else np.array(vector_KD, np.float32, order="C")
    square_K = np.einsum("kd,kd->k", row_KD, row_KD)
    suspect = half and square_K.max(initial=0) >= _BEYOND_HALF**2  # most likely long rows, but `_from_half` makes numbers of infinities too
    if not np.isfinite(square_K).all() or (suspect and not np.isfinite(vector_KD).all()):
        raise ValueError("a vector is not finite, or too long for float32; likeness to it has no meaning")
    inverse_K = np.divide(1.0, np.sqrt(square_K), out=np.zeros_like(square_K), where=square_K > 0)
    row_KD *= inverse_K[:, None]
    return row_KD


def _from_half(half_KD: np.ndarray) -> np.ndarray:
    """float32 of finite halves, exactly, subnormal ones too; six times as fast as `astype`, which goes number by number.

    A half's bits, moved where a float32 has its own, read as the number divided by 2^112, the difference of the two exponents' biases
    (Giesen, https://gist.github.com/rygorous/2144712). What is not finite comes out as 65536 or more.
    """
    bits_KD = np.ascontiguousarray(half_KD).view(np.int16).astype(np.int32)  # extends the sign over the upper half
    bits_KD <<= 13
    bits_KD &= _SIGN_AND_REST
    row_KD = bits_KD.view(np.float32)
    row_KD *= _BIAS
    return row_KD
