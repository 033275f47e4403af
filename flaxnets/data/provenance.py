"""Pictures that say of themselves that a network made them, or a part of them."""

import io
import os
from pathlib import Path
from typing import Literal
from xml.sax import saxutils

import numpy as np

from flaxnets import errors, files
from flaxnets.data import pictures

# Terms of IPTC's vocabulary "Digital Source Type", for the property of the same name in
# the IPTC Photo Metadata Standard: a part, or all, is the work of a trained model.
COMPOSITE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# Of JPEG; its colours are kept at full size.
QUALITY = 95
LABEL = "SYNTHETIC"
# Heights of a picture's shorter side that a label takes, and its least, in pixels.
_LABEL_SHARE = 0.05
_LABEL_LEAST = 10

Format = Literal["png", "jpeg"]


def save(
    picture: np.ndarray,
    path: Path,
    *,
    format: Format,
    source_type: str | None,
    description: str = "",
    profile: bytes | None = None,
) -> None:
    """Writes a picture, whole or not at all, with a mark that tells where it is from.

    The mark is an XMP packet, where other programs look for it: in a PNG's iTXt chunk
    `XML:com.adobe.xmp`, in a JPEG's APP1 segment.

    Args:
        picture: uint8[H, W, 3].
        path: the file to make or replace.
        format: png keeps each value as it is; jpeg is several times smaller.
        source_type: COMPOSITE, GENERATED or another of IPTC's terms; no mark if None.
        description: for people, beside the term.
        profile: an ICC profile that says what colours the values mean.

    Raises:
        RunFolderError: the file cannot be written.
    """
    from PIL import Image, PngImagePlugin

    image = Image.fromarray(picture)
    packet = None if source_type is None else _packet(source_type, description)
    content = io.BytesIO()
    if format == "png":
        texts = PngImagePlugin.PngInfo()
        if packet is not None:
            texts.add_itxt("XML:com.adobe.xmp", packet)
        image.save(content, "PNG", pnginfo=texts, icc_profile=profile)
    else:
        image.save(
            content,
            "JPEG",
            quality=QUALITY,
            subsampling="4:4:4",
            icc_profile=profile,
            **({} if packet is None else {"xmp": packet.encode()}),
        )
    with files.replacing(path) as fresh:
        fresh.write_bytes(content.getbuffer())


def is_marked(path: str | os.PathLike[str]) -> bool:
    """Whether a picture file says that a trained model made it, or a part of it.

    That is, whether its XMP names one of IPTC's terms for it. A mark that is absent
    proves nothing: any program may drop it.

    Raises:
        DataError: the file is absent, or is no picture that can be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, pictures.opened(file, str(path)) as image:
            # Older versions of Pillow have a PNG's under its own name only.
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", b"")
    except OSError as error:
        raise errors.DataError(f"{path}: cannot be read ({error.strerror})") from error
    if isinstance(packet, str):
        packet = packet.encode()
    return any(term.encode() in packet for term in (COMPOSITE, GENERATED))


def labelled(picture: np.ndarray, text: str = LABEL) -> np.ndarray:
    """A picture with a label in its lower left corner, white on black, for people.

    Args:
        picture: uint8[H, W, 3].
        text: what the label says; it is made smaller where the picture is narrow.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width, _ = picture.shape
    size = max(_LABEL_LEAST, round(_LABEL_SHARE * min(height, width)))
    font = ImageFont.load_default(size)
    left, top, right, bottom = map(round, font.getbbox(text))
    border = size // 4
    label = Image.new("RGB", (right - left + 2 * border, bottom - top + 2 * border))
    ImageDraw.Draw(label).text((border - left, border - top), text, "white", font)
    shrink = min(1, width / label.width, height / label.height)
    label = label.resize([max(1, int(side * shrink)) for side in label.size])
    marked = picture.copy()
    marked[height - label.height :, : label.width] = np.asarray(label)
    return marked


def _packet(source_type: str, description: str) -> str:
    """An XMP packet (ISO 16684-1) with a digital source type and a description."""
    return (
        # What begins a packet is fixed, so that it is found in any file.
        '<?xpacket begin="\N{ZERO WIDTH NO-BREAK SPACE}" '
        'id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about=""'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">\n'
        "   <Iptc4xmpExt:DigitalSourceType>"
        f"{saxutils.escape(source_type)}</Iptc4xmpExt:DigitalSourceType>\n"
        '   <dc:description><rdf:Alt><rdf:li xml:lang="x-default">'
        f"{saxutils.escape(description)}</rdf:li></rdf:Alt></dc:description>\n"
        "  </rdf:Description>\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    )
