/* Protobuf's wire format for plugins in plain C: enough to read and write the headers of messages by hand.
 * https://protobuf.dev/programming-guides/encoding/
 *
 *   pintle_reader r = pintle_read(message->header, message->header_size);
 *   pintle_wire_field f;
 *   while (pintle_next(&r, &f)) {
 *     if (f.number == 1 && f.type == PINTLE_WIRE_VARINT) number = f.varint;
 *     if (f.number == 2 && f.type == PINTLE_WIRE_BYTES) text = f.bytes, text_size = f.size;
 *   }
 *   if (r.failed) ... the header is malformed
 *
 * Fields that are not known are skipped by not looking at them. Nothing here allocates; bytes point into the header.
 */
#ifndef PINTLE_WIRE_H
#define PINTLE_WIRE_H

#include <stdint.h>
#include <string.h>

enum { PINTLE_WIRE_VARINT = 0, PINTLE_WIRE_FIXED64 = 1, PINTLE_WIRE_BYTES = 2, PINTLE_WIRE_FIXED32 = 5 };

typedef struct pintle_reader {
  const uint8_t *at, *end;
  int failed;
} pintle_reader;

typedef struct pintle_wire_field {
  uint32_t number, type;
  uint64_t varint; /* VARINT, FIXED64 and FIXED32 */
  const uint8_t* bytes;
  uint64_t size; /* BYTES */
} pintle_wire_field;

static inline pintle_reader pintle_read(const uint8_t* bytes, uint64_t size) {
  pintle_reader reader = {bytes, bytes + size, 0};
  return reader;
}

static inline uint64_t pintle_read_varint(pintle_reader* reader) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && reader->at < reader->end; shift += 7) {
    const uint8_t byte = *reader->at++;
    value |= (uint64_t)(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
  reader->failed = 1;
  return 0;
}

/* 1 and a field, or 0 at the end or when the bytes are malformed (`failed`). */
static inline int pintle_next(pintle_reader* reader, pintle_wire_field* field) {
  uint64_t key, left;
  if (reader->failed || reader->at == reader->end) return 0;
  memset(field, 0, sizeof *field);
  key = pintle_read_varint(reader);
  field->number = (uint32_t)(key >> 3);
  field->type = (uint32_t)(key & 7);
  if (field->number == 0) reader->failed = 1;
  if (reader->failed) return 0;
  left = (uint64_t)(reader->end - reader->at);
  switch (field->type) {
    case PINTLE_WIRE_VARINT: field->varint = pintle_read_varint(reader); break;
    case PINTLE_WIRE_FIXED64:
    case PINTLE_WIRE_FIXED32: {
      const uint64_t width = field->type == PINTLE_WIRE_FIXED64 ? 8 : 4;
      if (left < width) {
        reader->failed = 1;
        break;
      }
      for (uint64_t i = 0; i < width; ++i) field->varint |= (uint64_t)reader->at[i] << (8 * i);
      reader->at += width;
      break;
    }
    case PINTLE_WIRE_BYTES:
      field->size = pintle_read_varint(reader);
      if (!reader->failed && field->size <= (uint64_t)(reader->end - reader->at)) {
        field->bytes = reader->at;
        reader->at += field->size;
      } else {
        reader->failed = 1;
      }
      break;
    default: reader->failed = 1;
  }
  return !reader->failed;
}

typedef struct pintle_writer {
  uint8_t* bytes;
  uint64_t size, capacity;
  int failed; /* there was no room */
} pintle_writer;

static inline pintle_writer pintle_write(uint8_t* bytes, uint64_t capacity) {
  pintle_writer writer = {bytes, 0, capacity, 0};
  return writer;
}

static inline void pintle_put_byte(pintle_writer* writer, uint8_t byte) {
  if (writer->size < writer->capacity) {
    writer->bytes[writer->size++] = byte;
  } else {
    writer->failed = 1;
  }
}

static inline void pintle_put_raw_varint(pintle_writer* writer, uint64_t value) {
  for (; value >= 0x80; value >>= 7) pintle_put_byte(writer, (uint8_t)(value | 0x80));
  pintle_put_byte(writer, (uint8_t)value);
}

static inline void pintle_put_varint(pintle_writer* writer, uint32_t number, uint64_t value) {
  pintle_put_raw_varint(writer, (uint64_t)number << 3 | PINTLE_WIRE_VARINT);
  pintle_put_raw_varint(writer, value);
}

static inline void pintle_put_bytes(pintle_writer* writer, uint32_t number, const void* bytes, uint64_t size) {
  pintle_put_raw_varint(writer, (uint64_t)number << 3 | PINTLE_WIRE_BYTES);
  pintle_put_raw_varint(writer, size);
  if (writer->failed || size > writer->capacity - writer->size) {
    writer->failed = 1;
    return;
  }
  if (size) memcpy(writer->bytes + writer->size, bytes, size);
  writer->size += size;
}

#endif
