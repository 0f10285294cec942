"""Which AppMon server a post comes from."""

_SERVER_NAME = 0x1A  # BusinessTransactions.serverName: number << 3 | wire type


def server_name(body: bytes) -> bytes:
    """The post's serverName as UTF-8; empty if it has none, as from older servers. It reads only the outermost fields:
    parsing all of a large body would take long."""
    position, name = 0, b""
    try:
        while position < len(body):
            tag, position = _varint(body, position)
            if tag & 7 == 2:
                length, position = _varint(body, position)
                if tag == _SERVER_NAME:
                    name = body[position : position + length]
                position += length
            elif tag & 7 == 0:
                _, position = _varint(body, position)
            elif tag & 7 in (1, 5):
                position += 8 if tag & 7 == 1 else 4
            else:  # a group, which no field of a post is
                return name
    except IndexError:  # cut off
        return b""
    return name


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """The value of the varint at `position`, and the position after it."""
    value = shift = 0
    while (byte := body[position]) >= 0x80:
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
    return value | byte << shift, position + 1
