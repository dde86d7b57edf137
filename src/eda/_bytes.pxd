# Reading bytes with bounds checks, and writing bytes into a growing buffer. Inline, libc only.
#
# All code that reads bytes from the network uses Cursor. All code that builds outgoing bytes uses Writer: first
# reserve(), which checks the room, then put_*(), which do not check again.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef extern from *:
    # Cython's macro: tells the compiler which branch is the usual one.
    bint likely(bint condition) noexcept nogil


cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    #define EDA_IS_LITTLE 0
    #else
    #define EDA_IS_LITTLE 1
    #endif
    #if defined(_MSC_VER)
    #include <intrin.h>
    static inline int eda_lowest_byte(unsigned long long word) {
        unsigned long at;
        _BitScanForward64(&at, word);
        return (int)at >> 3;
    }
    #else
    static inline int eda_lowest_byte(unsigned long long word) { return __builtin_ctzll(word) >> 3; }
    #endif
    static const char EDA_PAIRS[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354"
        "555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    """
    const char* PAIRS "EDA_PAIRS"               # two digits for each number below 100
    const bint IS_LITTLE "EDA_IS_LITTLE"        # the byte order of words in memory
    int lowest_byte "eda_lowest_byte"(uint64_t word) noexcept nogil     # with any bit set; of 0, anything


# Why reading failed; 0 is success.
cdef enum ReadError:
    READ_OK = 0
    READ_TRUNCATED = 1       # the bytes end inside a value
    READ_LENGTH = 2          # an announced length points past the end
    READ_VARINT = 3          # a varint of more than ten bytes, or a tag of more than 32 bits
    READ_FIELD_ZERO = 4      # field number 0
    READ_WIRE_TYPE = 5       # an unknown wire type, or the wrong one for a known field
    READ_GROUP = 6           # a group without its end, with the end of another group, or nested too deep
    READ_UTF8 = 7            # a string that is not UTF-8
    READ_PACK = 8            # a field that marks a pack of events
    READ_EMPTY = 9           # zero bytes
    READ_NAMELESS = 10       # neither id nor type


# Protobuf wire types (protobuf encoding specification).
cdef enum WireType:
    WIRE_VARINT = 0
    WIRE_FIXED64 = 1
    WIRE_BYTES = 2
    WIRE_GROUP = 3
    WIRE_GROUP_END = 4
    WIRE_FIXED32 = 5


cdef enum:
    MAX_GROUP_DEPTH = 100    # the limit of the official implementations


cdef struct Cursor:
    const unsigned char* pos     # next byte to read
    const unsigned char* end     # one past the last byte; never read


cdef inline bint nine_bytes(const unsigned char* data, uint64_t* value) noexcept nogil:
    """Read a varint of exactly nine bytes, the size of a time. Return False for a varint of another size."""
    cdef uint64_t word
    if not IS_LITTLE or data[8] >= 0x80:
        return False
    memcpy(&word, data, 8)
    if word & 0x8080808080808080ULL != 0x8080808080808080ULL:
        return False
    # Three steps join the seven low bits of each of the first eight bytes.
    word = (word & 0x007F007F007F007FULL) | (word & 0x7F007F007F007F00ULL) >> 1
    word = (word & 0x00003FFF00003FFFULL) | (word & 0x3FFF00003FFF0000ULL) >> 2
    word = (word & 0x000000000FFFFFFFULL) | (word & 0x0FFFFFFF00000000ULL) >> 4
    value[0] = word | <uint64_t>data[8] << 56
    return True


cdef inline ReadError take_varint(Cursor* c, uint64_t* value) noexcept nogil:
    """Read a varint of one to ten bytes. Bits after the 64th are dropped, as in other implementations."""
    cdef uint64_t result = 0
    cdef unsigned int shift = 0
    cdef unsigned char byte
    if c.end - c.pos > 8 and nine_bytes(c.pos, value):
        c.pos += 9
        return READ_OK
    while shift < 70:
        if c.pos == c.end:
            return READ_TRUNCATED
        byte = c.pos[0]
        c.pos += 1
        result |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = result
            return READ_OK
        shift += 7
    return READ_VARINT


cdef inline ReadError take_tag(Cursor* c, uint32_t* field, uint32_t* wire_type) noexcept nogil:
    """Read a field's tag."""
    cdef uint64_t tag = 0
    cdef const unsigned char* begin = c.pos
    cdef ReadError error
    if c.pos < c.end and c.pos[0] < 0x80:
        tag = c.pos[0]
        c.pos += 1
    else:
        error = take_varint(c, &tag)
        if error != READ_OK:
            return error
        if tag > <uint64_t>0xFFFFFFFFULL or c.pos - begin > 5:
            return READ_VARINT
    field[0] = <uint32_t>(tag >> 3)
    wire_type[0] = <uint32_t>(tag & 7)
    if field[0] == 0:
        return READ_FIELD_ZERO
    return READ_OK


cdef inline ReadError take_bytes(Cursor* c, const unsigned char** data, Py_ssize_t* n) noexcept nogil:
    """Read a length and that many bytes; `data` points into the cursor's bytes."""
    cdef uint64_t length
    cdef ReadError error
    if c.pos < c.end and c.pos[0] < 0x80:
        length = c.pos[0]
        c.pos += 1
    else:
        error = take_varint(c, &length)
        if error != READ_OK:
            return error
    if <uint64_t>(c.end - c.pos) < length:
        return READ_LENGTH
    data[0] = c.pos
    n[0] = <Py_ssize_t>length
    c.pos += length
    return READ_OK


cdef inline ReadError skip_scalar(Cursor* c, uint32_t wire_type) noexcept nogil:
    """Skip the value of an unknown field that is not a group."""
    cdef uint64_t number
    cdef const unsigned char* data
    cdef Py_ssize_t n
    if wire_type == WIRE_VARINT:
        return take_varint(c, &number)
    if wire_type == WIRE_BYTES:
        return take_bytes(c, &data, &n)
    if wire_type == WIRE_FIXED64:
        if c.end - c.pos < 8:
            return READ_TRUNCATED
        c.pos += 8
        return READ_OK
    if wire_type == WIRE_FIXED32:
        if c.end - c.pos < 4:
            return READ_TRUNCATED
        c.pos += 4
        return READ_OK
    return READ_WIRE_TYPE


cdef inline ReadError skip_field(Cursor* c, uint32_t field, uint32_t wire_type) noexcept nogil:
    """Skip the value of an unknown field, which may be a group."""
    cdef uint32_t open_groups[MAX_GROUP_DEPTH]
    cdef int depth = 0
    cdef ReadError error
    while True:
        if wire_type == WIRE_GROUP:
            if depth == MAX_GROUP_DEPTH:
                return READ_GROUP
            open_groups[depth] = field
            depth += 1
        elif wire_type == WIRE_GROUP_END:
            if depth == 0 or open_groups[depth - 1] != field:
                return READ_GROUP
            depth -= 1
        else:
            error = skip_scalar(c, wire_type)
            if error != READ_OK:
                return error
        if depth == 0:
            return READ_OK
        error = take_tag(c, &field, &wire_type)
        if error != READ_OK:
            return error


cdef inline bint is_ascii(const unsigned char* data, Py_ssize_t n) noexcept nogil:
    # Tests whole words; the last one may overlap the word before. Texts are short, but every event has several, so
    # a loop over single bytes would be too slow.
    cdef uint64_t word, other, high, low
    cdef uint32_t half, last_half
    cdef Py_ssize_t i = 0
    if n >= 16:
        memcpy(&high, data + n - 16, 8)
        memcpy(&low, data + n - 8, 8)
        while i < n - 16:
            memcpy(&word, data + i, 8)
            memcpy(&other, data + i + 8, 8)
            high |= word
            low |= other
            i += 16
        return (high | low) & 0x8080808080808080ULL == 0
    if n >= 8:
        memcpy(&word, data, 8)
        memcpy(&other, data + n - 8, 8)
        return (word | other) & 0x8080808080808080ULL == 0
    if n >= 4:
        memcpy(&half, data, 4)
        memcpy(&last_half, data + n - 4, 4)
        return (half | last_half) & <uint32_t>0x80808080U == 0
    while i < n:
        if data[i] & 0x80:
            return False
        i += 1
    return True


# These test eight bytes at once. A result other than 0 says that one of the bytes matches, but not which one: only its
# lowest byte with a bit set is sure to match.
cdef enum:
    ONES = 0x0101010101010101ULL
    HIGHS = 0x8080808080808080ULL


cdef inline uint64_t has_zero(uint64_t word) noexcept nogil:
    return (word - ONES) & ~word & HIGHS


cdef inline uint64_t has_unprintable(uint64_t word) noexcept nogil:
    """Test for a byte below 33 or above 126."""
    return (word | (word + ONES) | (word - ONES * 33)) & HIGHS


cdef inline bint is_utf8(const unsigned char* data, Py_ssize_t n) noexcept nogil:
    """Return whether the bytes are UTF-8 as in RFC 3629: without overlong forms and surrogates."""
    cdef Py_ssize_t i = 0, follow, k
    cdef unsigned char first, low, high
    if is_ascii(data, n):
        return True
    while i < n:
        first = data[i]
        i += 1
        if first < 0x80:
            continue
        low = 0x80
        high = 0xBF
        if 0xC2 <= first <= 0xDF:
            follow = 1
        elif 0xE0 <= first <= 0xEF:
            follow = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            follow = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if n - i < follow:
            return False
        if data[i] < low or data[i] > high:
            return False
        for k in range(1, follow):
            if data[i + k] & 0xC0 != 0x80:
                return False
        i += follow
    return True


cdef struct Writer:
    unsigned char* buf           # owned; NULL while cap is 0
    Py_ssize_t pos               # bytes written
    Py_ssize_t cap               # bytes allocated


cdef inline int reserve(Writer* w, Py_ssize_t n) noexcept nogil:
    """Make room for `n` more bytes; the buffer grows if needed. Return 0, or -1 if there is no memory."""
    cdef Py_ssize_t cap
    cdef unsigned char* grown
    if w.cap - w.pos >= n:
        return 0
    cap = w.cap * 2
    if cap < w.pos + n:
        cap = w.pos + n
    if cap < 4096:
        cap = 4096
    grown = <unsigned char*>realloc(w.buf, <size_t>cap)
    if grown is NULL:
        return -1
    w.buf = grown
    w.cap = cap
    return 0


cdef inline void release(Writer* w) noexcept nogil:
    """Free the writer's buffer."""
    free(w.buf)
    w.buf = NULL
    w.pos = 0
    w.cap = 0


cdef inline void put_byte(Writer* w, unsigned char byte) noexcept nogil:
    w.buf[w.pos] = byte
    w.pos += 1


cdef inline void put_bytes(Writer* w, const void* data, Py_ssize_t n) noexcept nogil:
    memcpy(w.buf + w.pos, data, <size_t>n)
    w.pos += n


# Writing through a pointer: each copy_*() returns the address of the next byte. The caller has reserved the room. Code
# that runs for every event uses these, because put_*() store and load the writer's position for every piece.


cdef inline unsigned char* copy_byte(unsigned char* to, unsigned char byte) noexcept nogil:
    to[0] = byte
    return to + 1


cdef inline unsigned char* copy_bytes(unsigned char* to, const unsigned char* data, Py_ssize_t n) noexcept nogil:
    # Copies whole words; the last one may overlap the word before. A memcpy() of constant size needs no call.
    cdef Py_ssize_t i = 16
    if n >= 16:
        if n > 128:
            memcpy(to, data, <size_t>n)
            return to + n
        memcpy(to, data, 16)
        while i < n - 16:
            memcpy(to + i, data + i, 16)
            i += 16
        memcpy(to + n - 16, data + n - 16, 16)
    elif n >= 8:
        memcpy(to, data, 8)
        memcpy(to + n - 8, data + n - 8, 8)
    elif n >= 4:
        memcpy(to, data, 4)
        memcpy(to + n - 4, data + n - 4, 4)
    elif n > 0:
        to[0] = data[0]
        to[n >> 1] = data[n >> 1]
        to[n - 1] = data[n - 1]
    return to + n


cdef inline int size_of_varint(uint64_t value) noexcept nogil:
    cdef int n = 1
    if value >> 56:                     # a time between 1972 and 2262
        return 10 if value >> 63 else 9
    while value >= 0x80:
        value >>= 7
        n += 1
    return n


cdef inline int size_of_length(Py_ssize_t n) noexcept nogil:
    return 1 if likely(n < 0x80) else size_of_varint(<uint64_t>n)


cdef inline unsigned char* copy_varint(unsigned char* to, uint64_t value) noexcept nogil:
    cdef uint64_t word
    if IS_LITTLE and value >> 56 and not value >> 63:
        # A time between 1972 and 2262 takes nine bytes. Three steps spread 56 bits over the first eight bytes, seven
        # bits each. nine_bytes() does the opposite.
        word = value & 0x00FFFFFFFFFFFFFFULL
        word = (word & 0x000000000FFFFFFFULL) | (word & 0x00FFFFFFF0000000ULL) << 4
        word = (word & 0x00003FFF00003FFFULL) | (word & 0x0FFFC0000FFFC000ULL) << 2
        word = (word & 0x007F007F007F007FULL) | (word & 0x3F803F803F803F80ULL) << 1 | HIGHS
        memcpy(to, &word, 8)
        to[8] = <unsigned char>(value >> 56)
        return to + 9
    while value >= 0x80:
        to[0] = <unsigned char>(value & 0x7F | 0x80)
        to += 1
        value >>= 7
    to[0] = <unsigned char>value
    return to + 1


cdef inline unsigned char* copy_length(unsigned char* to, Py_ssize_t n) noexcept nogil:
    """Write a varint that is rarely longer than one byte."""
    if likely(n < 0x80):
        to[0] = <unsigned char>n
        return to + 1
    return copy_varint(to, <uint64_t>n)


cdef inline int size_of_decimal(uint64_t value) noexcept nogil:
    cdef int n = 1
    while value >= 10000:
        value //= 10000
        n += 4
    return n + (value >= 10) + (value >= 100) + (value >= 1000)


cdef inline unsigned char* copy_pair(unsigned char* to, unsigned int value) noexcept nogil:
    """Write a number below 100 with two digits."""
    memcpy(to, PAIRS + 2 * value, 2)
    return to + 2


cdef inline unsigned char* copy_decimal(unsigned char* to, uint64_t value) noexcept nogil:
    cdef int i, n
    cdef unsigned int high
    if value < 10000:                   # most sizes
        high = <unsigned int>value // 100
        if high >= 10:
            to = copy_pair(to, high)
        elif high:
            to = copy_byte(to, <unsigned char>(48 + high))
        elif value < 10:
            return copy_byte(to, <unsigned char>(48 + value))
        return copy_pair(to, <unsigned int>value - high * 100)
    n = size_of_decimal(value)
    i = n
    while i >= 2:
        i -= 2
        copy_pair(to + i, <unsigned int>(value % 100))
        value //= 100
    if i:
        to[0] = <unsigned char>(48 + value)
    return to + n


cdef inline void put_decimal(Writer* w, uint64_t value) noexcept nogil:
    w.pos = copy_decimal(w.buf + w.pos, value) - w.buf


cdef inline bint parse_decimal(const unsigned char* data, Py_ssize_t n, uint64_t* value) noexcept nogil:
    """Read all `n` bytes as a decimal number below 2**63. Return False if they are not such a number."""
    cdef uint64_t result = 0
    cdef Py_ssize_t i
    cdef unsigned int digit
    if n < 1 or n > 19:
        return False
    for i in range(n):
        digit = <unsigned int>data[i] - 48
        if digit > 9:
            return False
        result = result * 10 + digit
    value[0] = result
    return result < 0x8000000000000000ULL


cdef inline bint eight_digits(const unsigned char* data, uint64_t* value) noexcept nogil:
    """Read eight bytes as a decimal number. Return False if they are not all digits, or must be read one by one."""
    cdef uint64_t word
    if not IS_LITTLE:
        return False
    memcpy(&word, data, 8)
    # The upper half of a digit's byte is 3, also after 6 was added.
    if (word & ONES * 0xF0) | (word + ONES * 6 & ONES * 0xF0) >> 4 != ONES * 0x33:
        return False
    word -= ONES * 48
    # Each step joins two neighbours: digits to numbers below 100, these to the result.
    word = word * 10 + (word >> 8)
    value[0] = (
        (word & 0x000000FF000000FFULL) * 0x000F424000000064ULL
        + (word >> 16 & 0x000000FF000000FFULL) * 0x0000271000000001ULL
    ) >> 32
    return True
