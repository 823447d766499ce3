"""Files a little or very different from valid ones: the same for the same random state."""

import gzip
import io
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

Tree = Mapping[str, bytes]
"""The files of a format, by path."""
Mutation = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, 127, 128, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[\d.]+(?:[eE][-+]?\d+)?|true|false|null|[\[\]{}:,]|[^\s"\[\]{}:,]+')
HOSTILE = (
    *(b"null", b"true", b'""', b"-1", b"0", b"0.5", b"[]", b"{}", b"NaN", b"-Infinity", b"1e400", b"1e-400"),
    *(b'"\\ud800"', b'"\\u0000"', b'"../../etc/passwd"', b'"/dev/zero"', b'"\xff\xfe"', b'"\\u202e\\u001b[31m"'),
    *(b"9" * 25, b"-" + b"9" * 400, b"9" * 5000, b'"' + b"x" * 70_000 + b'"', b"4611686018427387904", b"1000000007"),
    *(b"[" * 2000, b'{"a":' * 2000, b"[" * 50_000 + b"]" * 50_000, b"[" + b"[]," * 30_000 + b"0]", b'"float64"'),
)


def mutated_tree(tree: Tree, chance: random.Random, special: Mapping[str, Mutation]) -> dict[str, bytes]:
    """A copy with one to three mutations, most of them in one file.

    Args:
      tree: valid files.
      chance: the random state.
      special: ending of a path → a mutation that knows the format, used half of the time.
    """
    files = dict(tree)
    path = chance.choice(sorted(files))
    for _ in range(chance.choice((1, 1, 2, 3))):
        path = path if chance.random() < 0.8 and path in files else chance.choice(sorted(files))
        known = next((mutation for ending, mutation in special.items() if path.endswith(ending)), None)
        mutation = known if known and chance.random() < 0.6 else chance.choice((binary, binary, tokens))
        files[path] = mutation(files[path], chance)
        if chance.random() < 0.02 and len(files) > 1:
            del files[path]
    return files


def binary(data: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, splices, repeats, or sets a field to an extreme value; mostly near the beginning or the end."""
    if not data:
        return bytes(chance.randrange(256) for _ in range(chance.randrange(64)))
    at, size = _place(data, chance), chance.choice((1, 2, 4, 8))
    kind = chance.randrange(8)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + chance.randrange(1, 64) :]
    if kind == 3:
        source, length = chance.randrange(len(data)), chance.randrange(1, 2000)
        return data[:at] + data[source : source + length] + data[at + chance.choice((0, length)) :]
    if kind == 4:
        return data[:at] + data[at : at + chance.randrange(1, 300)] * chance.choice((2, 10, 1000)) + data[at:]
    if kind == 5:
        return data[:at] + bytes(chance.randrange(256) for _ in range(size)) + data[at + size :]
    number = chance.choice(EXTREMES) % 2 ** (8 * size)
    return data[:at] + number.to_bytes(size, chance.choice(("little", "big"))) + data[at + size :]


def _place(data: bytes, chance: random.Random) -> int:
    window = min(len(data), chance.choice((16, 64, 512, len(data))))
    return chance.randrange(window) if chance.random() < 0.7 else len(data) - 1 - chance.randrange(window)


def tokens(data: bytes, chance: random.Random) -> bytes:
    """Replaces, repeats, removes or exchanges words and numbers of a text."""
    found = list(TOKEN.finditer(data))
    if not found:
        return binary(data, chance)
    one, other = chance.choice(found), chance.choice(found)
    kind = chance.randrange(5)
    if kind <= 1:
        return data[: one.start()] + chance.choice(HOSTILE) + data[one.end() :]
    if kind == 2:
        return data[: one.start()] + other[0] + data[one.end() :]
    if kind == 3:
        return data[: one.start()] + data[one.end() :]
    first, last = sorted((one.start(), other.end()))
    return data[:last] + data[first:last] * chance.choice((1, 50)) + data[last:]


def in_zip(data: bytes, chance: random.Random) -> bytes:
    """Changes an entry, and packs all again with the right checksums; or repeats, removes or compresses one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [[entry.filename, archive.read(entry)] for entry in archive.infolist()]
    except Exception:
        return binary(data, chance)
    entry = next((e for e in entries if e[0].endswith("data.pkl") and chance.random() < 0.7), chance.choice(entries))
    kind = chance.randrange(12)
    if kind == 0:
        entries.remove(entry)
    elif kind == 1:
        entries.append(entry)
    elif kind == 2:
        entry[0] = chance.choice(("archive/data.pkl", "../../x", "archive/byteorder", "a" * 5000))
    else:
        entry[1] = (numbers if chance.random() < 0.3 else binary)(entry[1], chance)
    out = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if chance.random() < 0.02 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", packing) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return out.getvalue()


def numbers(data: bytes, chance: random.Random) -> bytes:
    """Replaces a small integer of a pickle by a huge one."""
    places = [match.start() for match in re.finditer(rb"[KM]", data)]
    if not places:
        return binary(data, chance)
    at = chance.choice(places)
    huge = chance.choice(EXTREMES).to_bytes(9, "little", signed=False)
    return data[:at] + b"\x8a\x09" + huge + data[at + (2 if data[at : at + 1] == b"K" else 3) :]


def in_tar(data: bytes, chance: random.Random) -> bytes:
    """Changes a field of a member's header and mends the checksum; or adds a link, a device or an extended header."""
    headers = [at for at in range(0, len(data) - 511, 512) if data[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return binary(data, chance)
    at, kind = chance.choice(headers), chance.randrange(4)
    if kind == 0:
        member = tarfile.TarInfo(chance.choice(("link", "000000.jpg", "../x", "n" * 90)))
        member.type = bytes([chance.choice(b"123456LKxgS7")])
        content = chance.choice((b"", b"20 path=" + b"y" * 3000 + b"\n", b"16 size=9999999\n", b"z" * 600))
        member.size = len(content) if chance.random() < 0.8 else chance.choice((2**33, 10**6))
        return data[:at] + member.tobuf() + content + bytes(-len(content) % 512) + data[at:]
    header = bytearray(data[at : at + 512])
    start, size = chance.choice(((0, 100), (124, 12), (124, 12), (156, 1), (257, 8), (345, 155)))
    if kind == 1:
        big = b"\x80" + chance.choice(EXTREMES).to_bytes(11, "big")
        header[124:136] = chance.choice((b"7" * 11 + b"\0", big, b"\xff" * 12, b"-1\0         ", bytes(12)))
    else:
        header[start : start + size] = (binary(bytes(header[start : start + size]), chance) + bytes(size))[:size]
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def in_gzip(inside: Mutation) -> Mutation:
    """A mutation of what is packed."""

    def mutation(data: bytes, chance: random.Random) -> bytes:
        try:
            return gzip.compress(inside(gzip.decompress(data), chance), 1, mtime=0)
        except (OSError, EOFError, zlib.error):
            return binary(data, chance)

    return mutation


def in_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Changes the JSON header, and its length with it."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data) - 8:
        return binary(data, chance)
    header = tokens(data[8 : 8 + size], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def in_png(data: bytes, chance: random.Random) -> bytes:
    """Changes a chunk and mends its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    if not chunks:
        return binary(data, chance)
    chunk = chance.choice(chunks)
    chunk[1] = binary(chunk[1], chance)
    if chance.random() < 0.1:
        chunks.insert(chance.randrange(len(chunks)), [chance.choice((b"eXIf", b"iCCP", b"zTXt", b"acTL")), chunk[1]])
    packed = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return data[:8] + b"".join(packed)
