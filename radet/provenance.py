"""What a file says of its own origin: the IPTC's digital source type, which cameras, editors and generators write into
XMP and into the manifests of C2PA (Content Credentials).

A claim, and no evidence: anybody can write it, most places on the web remove it, and no signature is verified here. So
it has no part in a score. https://cv.iptc.org/newscodes/digitalsourcetype/ lists the codes and what they mean.
"""

_NAMED = b"/digitalsourcetype/"
_AUTHORITIES = (b"cv.iptc.org/newscodes", b"c2pa.org")

#: Longer ones first: in a C2PA manifest the next field follows without a break.
_CODES = sorted(
    (
        *("digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm", "print", "screenCapture"),
        *("humanEdits", "minorHumanEdits", "algorithmicallyEnhanced", "softwareImage", "virtualRecording"),
        *("digitalArt", "digitalCreation", "dataDrivenMedia", "algorithmicMedia", "trainedAlgorithmicMedia"),
        *("composite", "compositeCapture", "compositeSynthetic", "compositeWithTrainedAlgorithmicMedia"),
        *("trainedAlgorithmicData", "empty"),  # C2PA's own
    ),
    key=len,
    reverse=True,
)
_MOST = 100  # places in a file that are looked at


def digital_source_type(data: bytes) -> str | None:
    """The codes that the raw bytes of a picture name, sorted and joined by ", "; None where they name none.

    Several, where the file tells of a picture and of what it was made from. Finds them in any container, since XMP and
    C2PA's manifests lie uncompressed in all of them.
    """
    found: set[str] = set()
    at = data.find(_NAMED)
    for _ in range(_MOST):
        if at < 0:
            break
        end = at + len(_NAMED)
        if data[max(0, at - 32) : at].endswith(_AUTHORITIES):
            found.update([code for code in _CODES if data.startswith(code.encode(), end)][:1])
        at = data.find(_NAMED, end)
    return ", ".join(sorted(found)) or None
