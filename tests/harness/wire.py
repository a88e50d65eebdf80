"""Protobuf's wire format, as far as tests need it: messages as dictionaries of field number -> list of values.

    body = wire.encode({1: "text", 2: 7, 3: {1: "nested"}})
    pods = wire.decode(answer).get(1, [])            # bytes and integers
    name = wire.text(wire.decode(pods[0]), 2)
"""


def _varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(message):
    out = bytearray()
    for number, values in message.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, dict):
                value = encode(value)
            if isinstance(value, str):
                value = value.encode()
            if isinstance(value, bytes):
                out += _varint(number << 3 | 2) + _varint(len(value)) + value
            else:
                out += _varint(number << 3) + _varint(int(value))
    return bytes(out)


def _read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7


def decode(data):
    fields, at = {}, 0
    while at < len(data):
        key, at = _read_varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at:at + width], "little"), at + width
        elif kind == 2:
            size, at = _read_varint(data, at)
            value, at = data[at:at + size], at + size
        else:
            raise ValueError(f"wire type {kind} of field {number}")
        fields.setdefault(number, []).append(value)
    return fields


def text(fields, number):
    return fields[number][-1].decode() if number in fields else ""


def integer(fields, number):
    value = fields[number][-1] if number in fields else 0
    return value - (1 << 64) if value >= 1 << 63 else value


def messages(fields, number):
    return [decode(value) for value in fields.get(number, [])]
