"""Small pictures as cameras, screens and editors make them, and what a viewer shows of each.

`NAME.FORMAT` is the file, `NAME.png` in the folder `shown` what Pillow and LittleCMS make of it: turned, in sRGB,
on white. Needs Pillow alone.
"""

import io
import struct
import zlib

from PIL import Image, ImageCms, ImageOps

FOLDER = "tests/fixtures/pictures"
ORIENTATION = 0x0112


def picture(mode="RGB"):
    """Twelve by eight pixels without any symmetry."""
    image = Image.new("RGB", (12, 8))
    image.putdata([(20 * x, 30 * y, (37 * x + 11 * y * y) % 256) for y in range(8) for x in range(12)])
    if mode == "RGBA":
        alpha = Image.new("L", image.size)
        alpha.putdata([(23 * x + 31 * y) % 256 for y in range(8) for x in range(12)])
        image.putalpha(alpha)
    return image


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


def on_white(image):
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def oriented(number):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def curve(gamma):
    data = struct.pack(">4s4xIH", b"curv", 1, round(gamma * 256))
    return data + b"\0" * (-len(data) % 4)


def xyz(x, y, z):
    return struct.pack(">4s4x3i", b"XYZ ", *(round(v * 65536) for v in (x, y, z)))


def text(words):
    data = struct.pack(">4s4xI", b"desc", len(words) + 1) + words.encode() + b"\0"
    data += b"\0" * (4 + 4 + 2 + 1 + 67)
    return data + b"\0" * (-len(data) % 4)


def profile(space, tags):
    """An ICC profile of version 2, for a display."""
    tags = {b"desc": text("test"), b"wtpt": xyz(0.9642, 1.0, 0.8249), **tags}
    head, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        head += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    header = struct.pack(
        ">I4xI4s4s4s12x4s4x4x4x4x8xI3i", start + len(body), 0x02100000, b"mntr", space, b"XYZ ", b"acsp", 0,
        *(round(v * 65536) for v in (0.9642, 1.0, 0.8249)),
    )
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + head + body


def adobe_rgb():
    """Primaries of Adobe RGB (1998) as seen under D50, gamma 2.2."""
    colorants = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
    tags = {name: xyz(*c) for name, c in zip([b"rXYZ", b"gXYZ", b"bXYZ"], colorants)}
    return profile(b"RGB ", tags | dict.fromkeys([b"rTRC", b"gTRC", b"bTRC"], curve(2.2)))


def converted(image, icc):
    """To sRGB, relative colorimetric."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    target = ImageCms.createProfile("sRGB")
    return ImageCms.profileToProfile(image, source, target, ImageCms.Intent.PERCEPTUAL, outputMode="RGB")


def png(width, height, depth, kind, rows, chunks=()):
    """A PNG by its parts: Pillow writes neither 16 bits of color nor gamma."""
    chunk = lambda name, data: (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body += b"".join(chunk(name, data) for name, data in chunks)
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def rows(image, bands=3):
    data = image.tobytes()
    line = image.width * bands
    return [data[at : at + line] for at in range(0, len(data), line)]


def srgb_of_linear(value):
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


def wide(image):
    """Each byte twice: 16 bits of the same brightness."""
    return [b"".join(bytes([v, v]) for v in row) for row in rows(image, len(image.getbands()))]


def cases():
    """(file, content, what is seen)"""
    plain, clear = picture(), picture("RGBA")
    for number in range(1, 9):
        file = saved(plain, "WEBP", lossless=True, exif=oriented(number))
        yield f"turned{number}.webp", file, ImageOps.exif_transpose(opened(file)).convert("RGB")
    for number, format in [(6, "JPEG"), (8, "TIFF"), (3, "PNG")]:
        options = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
        file = saved(plain, format, exif=oriented(number), **options)
        yield f"turned_{format.lower()}.{format.lower()}", file, ImageOps.exif_transpose(opened(file)).convert("RGB")
    yield "clear.png", saved(clear, "PNG"), on_white(clear)
    yield "clear.webp", saved(clear, "WEBP", lossless=True, exact=True), on_white(clear)
    yield "clear.tiff", saved(clear, "TIFF"), on_white(clear)
    gray = clear.convert("LA")
    yield "clear_gray.png", saved(gray, "PNG"), on_white(gray)
    palette = plain.quantize(16)
    file = saved(palette, "GIF", transparency=3)
    yield "clear.gif", file, on_white(opened(file))
    yield "palette.png", saved(palette, "PNG", transparency=2), on_white(opened(saved(palette, "PNG", transparency=2)))
    yield "plain.bmp", saved(plain, "BMP"), plain
    yield "gray.png", saved(plain.convert("L"), "PNG"), plain.convert("L").convert("RGB")
    yield "bilevel.png", saved(plain.convert("1"), "PNG"), plain.convert("1").convert("RGB")
    icc = adobe_rgb()
    for format in ["PNG", "WEBP", "TIFF"]:
        options = {"lossless": True} if format == "WEBP" else {}
        yield f"adobe.{format.lower()}", saved(plain, format, icc_profile=icc, **options), converted(plain, icc)
    flat = Image.new("RGB", (12, 8), (90, 160, 60))
    yield "adobe.jpeg", saved(flat, "JPEG", quality=100, icc_profile=icc), converted(flat, icc)
    seen = converted(clear.convert("RGB"), icc)
    seen.putalpha(clear.getchannel("A"))
    yield "adobe_clear.png", saved(clear, "PNG", icc_profile=icc), on_white(seen)
    gray_icc = profile(b"GRAY", {b"kTRC": curve(1.0)})
    yield "gray_linear.png", saved(plain.convert("L"), "PNG", icc_profile=gray_icc), plain.convert("L").point(
        [round(255 * srgb_of_linear(v / 255)) for v in range(256)]
    ).convert("RGB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "srgb.png", saved(plain, "PNG", icc_profile=srgb), plain
    linear = plain.point([round(255 * srgb_of_linear(v / 255)) for v in range(256)] * 3)
    gamma = lambda value: (b"gAMA", struct.pack(">I", round(value * 100000)))
    yield "gamma1.png", png(12, 8, 8, 2, rows(plain), [gamma(1.0)]), linear
    yield "gamma_srgb.png", png(12, 8, 8, 2, rows(plain), [gamma(0.45455)]), plain
    yield "srgb_and_gamma1.png", png(12, 8, 8, 2, rows(plain), [(b"sRGB", b"\0"), gamma(1.0)]), plain
    points = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
    yield "adobe_points.png", png(12, 8, 8, 2, rows(plain), [gamma(1 / 2.19921875), (b"cHRM", points)]), converted(
        plain, icc
    )
    yield "wide.png", png(12, 8, 16, 2, wide(plain)), plain
    yield "wide_gamma1.png", png(12, 8, 16, 2, wide(plain), [gamma(1.0)]), linear
    yield "wide_clear.png", png(12, 8, 16, 6, wide(clear)), on_white(clear)
    yield "wide_gray.png", png(12, 8, 16, 0, wide(plain.convert("L"))), plain.convert("L").convert("RGB")
    others = [ImageOps.mirror(plain), ImageOps.flip(plain)]
    for format in ["GIF", "PNG", "WEBP", "TIFF"]:
        options = {"lossless": True} if format == "WEBP" else {}
        file = saved(plain, format, save_all=True, append_images=others, **options)
        yield f"frames.{format.lower()}", file, opened(file).convert("RGB")
    file = saved(flat.convert("CMYK"), "JPEG", quality=100)
    yield "cmyk.jpeg", file, opened(file).convert("RGB")


def files():
    """Paths and contents of all fixtures."""
    for name, content, seen in cases():
        yield f"{FOLDER}/{name}", content
        yield f"{FOLDER}/shown/{name}.png", saved(seen, "PNG", optimize=True)
