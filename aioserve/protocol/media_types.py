"""Which Content-Type has a file, and is it worth compressing? Its name alone decides, by our own table.

The tables of operating systems differ, so a site would change with the machine that it lies on; and the
answers carry X-Content-Type-Options: nosniff, so a browser cannot correct a wrong one. Types are the
registered ones of IANA where there are some, else what browsers and the desktop's tables agree on. The
content of a file is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final

# RFC 9110 §8.3: what says nothing about the content; browsers download it.
UNKNOWN: Final = "application/octet-stream"

# Extensions by type. An extension with a dot in it wins over its last part alone.
_EXTENSIONS: Final = {
    # Pages and what they load. RFC 9239: JavaScript is text/javascript, whatever the module system.
    "text/html": "html htm shtml",
    "application/xhtml+xml": "xhtml xht",
    "text/css": "css",
    "text/javascript": "js mjs cjs",
    "application/wasm": "wasm",
    "application/manifest+json": "webmanifest",
    # Feeds, calendars, contacts, maps of a site. XML carries its encoding inside, and a charset in the field
    # would overrule that (RFC 7303 §3), which is why application/xml is chosen over text/xml.
    "application/xml": "xml xsd rng",
    "application/xml-dtd": "dtd",
    "application/xslt+xml": "xsl xslt",
    "application/rss+xml": "rss",
    "application/atom+xml": "atom",
    "application/opensearchdescription+xml": "osdx",
    "text/x-opml": "opml",
    "text/calendar": "ics ifb",
    "text/vcard": "vcf vcard",
    # Text that people read. Source code is text/plain, because browsers show that and download many others.
    "text/plain": (
        "txt text log conf cfg ini list lst nfo asc diff patch tex bib rst adoc org "
        "c h cc cpp cxx hh hpp hxx cs d f f90 go hs java jl kt kts lua m mm ml nim pas pl pm py pyi pyx r rb "
        "rs scala sc swift tcl v vhd zig dart ex exs erl clj el lisp scm groovy gradle vb asm s "
        "sh bash zsh fish bat cmd ps1 awk sed mk cmake make dockerfile properties "
        "jsx tsx cts d.ts d.mts vue svelte astro scss sass less styl graphql gql proto sql tf hcl nix "
        "lock gitignore gitattributes editorconfig sum mod md5 sha1 sha256 sha512 sfv"
    ),
    "text/markdown": "md markdown mkd",
    "text/troff": "roff",
    "text/n3": "n3",
    "text/turtle": "ttl",
    "text/vtt": "vtt",
    # Data.
    "application/json": "json map topojson zarray zattrs zgroup zmetadata ipynb har",
    "application/json5": "json5",
    "application/ld+json": "jsonld",
    "application/geo+json": "geojson",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "ndjson geojsonl",
    "application/yaml": "yaml yml",
    "application/toml": "toml",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv tab",
    "application/vnd.apache.parquet": "parquet geoparquet",
    "application/vnd.apache.arrow.file": "arrow feather",
    "application/vnd.apache.arrow.stream": "arrows",
    "application/vnd.sqlite3": "sqlite sqlite3 mbtiles",
    "application/geopackage+sqlite3": "gpkg",
    "application/vnd.pmtiles": "pmtiles",
    "application/vnd.mapbox-vector-tile": "mvt",
    "application/vnd.google-earth.kml+xml": "kml",
    "application/vnd.google-earth.kmz": "kmz",
    "application/gpx+xml": "gpx",
    "application/gml+xml": "gml",
    "application/vnd.las": "las",
    "application/vnd.laszip": "laz",
    "application/x-hdf5": "h5 hdf5",
    "application/x-netcdf": "nc nc4 cdf",
    "application/flatgeobuf": "fgb",
    "application/wmo-grib2": "grib2 grb2",
    "application/fits": "fits fit",
    "application/cbor": "cbor",
    "application/vnd.msgpack": "msgpack",
    "application/protobuf": "pb binpb",
    "application/rdf+xml": "rdf owl",
    "application/n-triples": "nt",
    "application/n-quads": "nq",
    "application/trig": "trig",
    "application/sparql-query": "rq",
    "application/vnd.tcpdump.pcap": "pcap cap",
    # Images. A .svgz would need Content-Encoding, and we send none for a file that is asked for by its name,
    # so it is what its bytes are, and stands with the archives.
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/apng": "apng",
    "image/jpeg": "jpg jpeg jpe jfif",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif avifs",
    "image/jxl": "jxl",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jp2": "jp2 jpg2",
    "image/jpx": "jpx jpf",
    "image/bmp": "bmp dib",
    "image/tiff": "tif tiff",
    "image/vnd.microsoft.icon": "ico cur",
    "image/x-icns": "icns",
    "image/vnd.adobe.photoshop": "psd",
    "image/vnd.djvu": "djvu djv",
    "image/vnd.radiance": "hdr",
    "image/aces": "exr",
    "image/ktx": "ktx",
    "image/ktx2": "ktx2",
    "image/vnd-ms.dds": "dds",
    "image/x-tga": "tga",
    "image/qoi": "qoi",
    "image/x-portable-pixmap": "ppm",
    "image/x-portable-graymap": "pgm",
    "image/x-portable-bitmap": "pbm",
    "image/x-xcf": "xcf",
    # Fonts (RFC 8081).
    "font/woff2": "woff2",
    "font/woff": "woff",
    "font/ttf": "ttf",
    "font/otf": "otf",
    "font/collection": "ttc otc",
    "application/vnd.ms-fontobject": "eot",
    # Sound.
    "audio/mpeg": "mp3 mp2 mpga",
    "audio/mp4": "m4a m4b m4r",
    "audio/aac": "aac adts",
    "audio/ogg": "ogg oga opus spx",
    "audio/flac": "flac",
    "audio/wav": "wav wave",
    "audio/webm": "weba",
    "audio/aiff": "aif aiff aifc",
    "audio/midi": "mid midi kar rmi",
    "audio/matroska": "mka",
    "audio/amr": "amr",
    "audio/basic": "au snd",
    "audio/x-caf": "caf",
    "audio/x-ms-wma": "wma",
    "audio/x-mpegurl": "m3u",
    "audio/x-scpls": "pls",
    # Video. A .ts is a piece of a stream, as for nginx and Apache, and not TypeScript: players refuse a
    # stream with another type, no browser runs TypeScript, and Deno, which loads it from the network,
    # takes video/mp2t for TypeScript. The extensions that only TypeScript has are text.
    "video/mp4": "mp4 m4v mp4v mpg4",
    "video/webm": "webm",
    "video/ogg": "ogv",
    "video/matroska": "mkv mk3d",
    "video/quicktime": "mov qt",
    "video/mpeg": "mpg mpeg mpe m1v m2v vob",
    "video/mp2t": "ts m2ts mts m2t",
    "video/iso.segment": "m4s",
    "video/3gpp": "3gp 3gpp",
    "video/3gpp2": "3g2",
    "video/x-msvideo": "avi",
    "video/x-ms-wmv": "wmv",
    "application/vnd.ms-asf": "asf",
    "video/x-flv": "flv",
    "application/vnd.apple.mpegurl": "m3u8",
    "application/dash+xml": "mpd",
    "application/x-subrip": "srt",
    "application/ttml+xml": "ttml dfxp",
    "application/mxf": "mxf",
    # Shapes.
    "model/gltf-binary": "glb",
    "model/gltf+json": "gltf",
    "model/obj": "obj",
    "model/mtl": "mtl",
    "model/stl": "stl",
    "model/3mf": "3mf",
    "model/step": "step stp",
    "model/iges": "iges igs",
    "model/vnd.usdz+zip": "usdz",
    "model/vnd.usda": "usda",
    "model/vnd.collada+xml": "dae",
    "model/vrml": "wrl vrml",
    "image/vnd.dwg": "dwg",
    "image/vnd.dxf": "dxf",
    # Documents.
    "application/pdf": "pdf",
    "application/postscript": "ps eps ai",
    "application/rtf": "rtf",
    "application/epub+zip": "epub",
    "application/x-mobipocket-ebook": "mobi prc",
    "application/vnd.amazon.ebook": "azw",
    "application/vnd.comicbook+zip": "cbz",
    "application/vnd.comicbook-rar": "cbr",
    "application/oxps": "oxps",
    "application/vnd.ms-xpsdocument": "xps",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.template": "dotx",
    "application/vnd.ms-excel": "xls xlt",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.template": "xltx",
    "application/vnd.ms-powerpoint": "ppt pps",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.presentationml.slideshow": "ppsx",
    "application/vnd.visio": "vsd vsdx",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.graphics": "odg",
    "application/vnd.oasis.opendocument.formula": "odf",
    "application/x-dvi": "dvi",
    "application/vnd.apple.pages": "pages",
    "application/vnd.apple.numbers": "numbers",
    "application/vnd.apple.keynote": "key",
    "text/vnd.graphviz": "dot gv",
    "message/rfc822": "eml mht mhtml",
    "application/mbox": "mbox",
    "application/warc": "warc",
    # Archives and single compressed files. The last extension decides: a .tar.gz is a gzip file, and none of
    # these is ever said to be a tar with a Content-Encoding, which browsers would unpack behind one's back.
    "application/gzip": "gz tgz svgz",
    "application/x-bzip2": "bz2 tbz tbz2",
    "application/x-xz": "xz txz",
    "application/zstd": "zst tzst",
    "application/x-lzip": "lz",
    "application/x-lzma": "lzma",
    "application/x-lz4": "lz4",
    "application/zip": "zip",
    "application/x-7z-compressed": "7z",
    "application/vnd.rar": "rar",
    "application/x-tar": "tar",
    "application/x-cpio": "cpio",
    "application/x-archive": "a",
    "application/vnd.ms-cab-compressed": "cab",
    # Packages, disk images, programs, and what belongs to their download.
    "application/vnd.debian.binary-package": "deb udeb ddeb",
    "application/x-rpm": "rpm",
    "application/vnd.appimage": "appimage",
    "application/vnd.flatpak": "flatpak",
    "application/vnd.flatpak.ref": "flatpakref",
    "application/vnd.flatpak.repo": "flatpakrepo",
    "application/vnd.snap": "snap",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.apple.installer+xml": "mpkg",
    "application/x-xar": "xar pkg",
    "application/x-apple-diskimage": "dmg",
    "application/vnd.efi.iso": "iso",
    "application/vnd.efi.img": "img",
    "application/x-qemu-disk": "qcow2",
    "application/x-msi": "msi",
    "application/vnd.microsoft.portable-executable": "exe dll",
    "application/msix": "msix appx",
    "application/java-archive": "jar war ear",
    "application/x-xpinstall": "xpi",
    "application/x-chrome-extension": "crx",
    "application/vnd.adobe.flash.movie": "swf",
    "application/x-zsync": "zsync",
    "application/x-bittorrent": "torrent",
    "application/metalink4+xml": "meta4",
    # Keys and signatures.
    "application/pgp-signature": "sig",
    "application/pgp-keys": "gpg",
    "application/pgp-encrypted": "pgp",
    "application/pem-certificate-chain": "pem",
    "application/pkix-cert": "cer",
    "application/x-x509-ca-cert": "crt der",
    "application/pkix-crl": "crl",
    "application/pkcs10": "p10 csr",
    "application/pkcs12": "p12 pfx",
    "application/timestamp-query": "tsq",
    "application/timestamp-reply": "tsr",
}

# Whole names that have no extension: what lies in the folder of a project or of a package archive, and what
# standards put into .well-known.
_NAMES: Final = {
    "text/plain": (
        "authors changelog changes cname contributing contributors copying copyright dockerfile gemfile "
        "inrelease install jenkinsfile justfile license licence makefile md5sums news notice packages "
        "procfile rakefile readme release sha1sums sha256sums sha512sums sources thanks todo "
        "vagrantfile version"
    ),
    "application/json": "apple-app-site-association oauth-authorization-server openid-configuration",
}


def _index_types(table: Mapping[str, str]) -> Mapping[bytes, str]:
    """Turns a table around; every text/* gets its charset here.

    UTF-8 is what files of this century are written in, and without a charset browsers guess from the
    language of their user. JSON has no such parameter (RFC 8259 §11).
    """
    return MappingProxyType(
        {
            key.encode("ascii"): f"{media_type}; charset=utf-8"
            if media_type.startswith("text/")
            else media_type
            for media_type, keys in table.items()
            for key in keys.split()
        }
    )


_TYPE_BY_EXTENSION: Final = _index_types(_EXTENSIONS)
_TYPE_BY_NAME: Final = _index_types(_NAMES)


# What shrinks beside text/*, +json and +xml: text under another name, and formats that leave their numbers as
# they are. Not here is what is compressed inside, and the binary data that programs read in parts, such as
# databases: a form that has to be made as a whole before it can be read in parts helps nobody.
_COMPRESSIBLE: Final = (
    "application/json application/json5 application/jsonl application/x-ndjson application/yaml "
    "application/toml application/xml application/xml-dtd application/n-triples application/n-quads "
    "application/trig application/sparql-query application/javascript application/wasm "
    "application/x-subrip application/vnd.apple.mpegurl audio/x-mpegurl audio/x-scpls "
    "application/rtf application/postscript application/mbox message/rfc822 "
    "application/pem-certificate-chain "
    "font/ttf font/otf font/collection application/vnd.ms-fontobject "
    "image/bmp image/vnd.microsoft.icon image/x-portable-pixmap image/x-portable-graymap "
    "image/x-portable-bitmap image/vnd.dxf "
    "model/obj model/mtl model/stl model/step model/iges model/vrml model/vnd.usda"
)
_COMPRESSIBLE_TYPES: Final = frozenset(_COMPRESSIBLE.split())


@lru_cache(maxsize=1024)
def is_compressible(content_type: str) -> bool:
    """Whether files with this Content-Type usually become smaller when they are compressed."""
    media_type = content_type.partition(";")[0].strip().lower()
    return (
        media_type.startswith("text/")
        or media_type.endswith(("+json", "+xml"))
        or media_type in _COMPRESSIBLE_TYPES
    )


# Files are asked for more than once.
@lru_cache(maxsize=1024)
def find_content_type(name: bytes) -> str:
    """Gives the Content-Type value for a file of this name; case does not matter.

    The longest known extension decides, of two parts at the most. What follows a leading dot is an extension
    as well, so ".gitignore" has a type.
    """
    parts = name.lower().rsplit(b".", 2)
    if len(parts) == 1:
        return _TYPE_BY_NAME.get(parts[0], UNKNOWN)
    return _TYPE_BY_EXTENSION.get(b".".join(parts[1:])) or _TYPE_BY_EXTENSION.get(parts[-1], UNKNOWN)
