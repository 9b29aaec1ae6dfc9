"""Request targets and authorities as tables from RFC 3986 and RFC 9112 §3.2, and what is true of all."""

from __future__ import annotations

import ipaddress
from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioserve.protocol.message import BadRequest
from aioserve.protocol.target import Target, format_folder_location, is_authority, parse_target


def file(*segments: bytes, query: bytes | None = None) -> Target:
    return Target(segments, is_folder=False, query=query)


def folder(*segments: bytes, query: bytes | None = None) -> Target:
    return Target(segments, is_folder=True, query=query)


class TestOriginForm:
    """RFC 9112 §3.2.1."""

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"/", folder(), id="the root is a folder"),
            pytest.param(b"/a", file(b"a"), id="a name is a file"),
            pytest.param(b"/a/", folder(b"a"), id="a name with a slash behind is a folder"),
            pytest.param(b"/a/b.txt", file(b"a", b"b.txt"), id="a file in a folder"),
            pytest.param(b"/a?b=c", file(b"a", query=b"b=c"), id="a query"),
            pytest.param(b"/a/?b", folder(b"a", query=b"b"), id="a query behind a folder"),
            pytest.param(b"/?", folder(query=b""), id="an empty query is a query"),
            pytest.param(b"/a?b?c", file(b"a", query=b"b?c"), id="a question mark in the query"),
            pytest.param(b"/a?/../b/", file(b"a", query=b"/../b/"), id="a query is no path"),
            pytest.param(b"/a?%zz%00%2F", file(b"a", query=b"%zz%00%2F"), id="a query is not decoded"),
            pytest.param(b"/a;b=c", file(b"a;b=c"), id="a semicolon belongs to the name"),
            pytest.param(b"/a:b@c", file(b"a:b@c"), id="a colon and an at sign belong to the name"),
            pytest.param(b"/*", file(b"*"), id="an asterisk behind a slash is a name"),
            pytest.param(b"/http://a/b", file(b"http:", b"a", b"b"), id="a URI behind a slash is a path"),
            pytest.param(b'/"<>\\^`{|}', file(b'"<>\\^`{|}'), id="characters that should have been encoded"),
            pytest.param(b"/a\\..\\b", file(b"a\\..\\b"), id="a backslash separates nothing"),
        ],
    )
    def test_a_path_gives_its_names(self, target: bytes, expected: Target) -> None:
        assert parse_target("GET", target) == expected

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"a", id="a name without a slash"),
            pytest.param(b"a/b", id="a path without a slash before it"),
            pytest.param(b"?a", id="a query alone"),
            pytest.param(b"..", id="two dots alone"),
            pytest.param(b"%2F", id="an encoded slash for the first one"),
            pytest.param(b"\\a", id="a backslash for the first slash"),
        ],
    )
    def test_a_path_begins_with_a_slash(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_target("GET", target)


class TestPercentEncoding:
    """RFC 3986 §2.1 and §2.4."""

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"/%61", file(b"a"), id="an encoded letter"),
            pytest.param(b"/%C3%A4", file("ä".encode()), id="UTF-8"),
            pytest.param(b"/%c3%a4", file("ä".encode()), id="hexadecimal digits in lower case"),
            pytest.param(b"/%FF", file(b"\xff"), id="a byte that is no UTF-8"),
            pytest.param(b"/a%20b", file(b"a b"), id="a blank"),
            pytest.param(b"/a+b", file(b"a+b"), id="a plus is no blank"),
            pytest.param(b"/%3F", file(b"?"), id="an encoded question mark begins no query"),
            pytest.param(b"/%23", file(b"#"), id="an encoded number sign begins no fragment"),
            pytest.param(b"/%2561", file(b"%61"), id="an encoded percent sign is decoded once"),
            pytest.param(b"/%252e%252e/a", file(b"%2e%2e", b"a"), id="dots that were encoded twice"),
            pytest.param(b"/%252F", file(b"%2F"), id="a slash that was encoded twice"),
            pytest.param(b"/%0D%0A", file(b"\r\n"), id="a line break is a name like any other"),
            pytest.param(b"/a%5C..%5Cb", file(b"a\\..\\b"), id="encoded backslashes separate nothing"),
        ],
    )
    def test_each_name_is_decoded_once(self, target: bytes, expected: Target) -> None:
        assert parse_target("GET", target) == expected

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"/%", id="a percent sign alone"),
            pytest.param(b"/%4", id="one digit"),
            pytest.param(b"/%4/1", id="one digit and a slash"),
            pytest.param(b"/%zz", id="letters that are no digits"),
            pytest.param(b"/%%41", id="two percent signs"),
            pytest.param(b"/%+1", id="a sign for a digit"),
            pytest.param(b"/%u0041", id="the form that browsers once had"),
            pytest.param(b"/a%?b", id="a percent sign before the query"),
            pytest.param(b"/%/..", id="a percent sign in a name that is taken back"),
        ],
    )
    def test_a_malformed_encoding_is_refused(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match=r"400.*percent"):
            parse_target("GET", target)

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"/a%2Fb", id="an encoded slash"),
            pytest.param(b"/a%2fb", id="an encoded slash in lower case"),
            pytest.param(b"/..%2F..%2Fetc", id="an encoded slash behind dots"),
            pytest.param(b"/%00", id="NUL alone"),
            pytest.param(b"/a%00.html", id="NUL before a suffix"),
            pytest.param(b"/%2e%2e%00", id="NUL behind dots"),
        ],
    )
    def test_what_no_file_name_can_hold_is_refused(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match=r"400.*(slash|NUL) in the path"):
            parse_target("GET", target)


class TestRemoveDotSegments:
    """RFC 3986 §5.2.4, and the table of §5.4 as far as it is about paths."""

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"/a/b/c/./../../g", file(b"a", b"g"), id="the example of the RFC"),
            pytest.param(b"/b/c/./g", file(b"b", b"c", b"g"), id="one dot"),
            pytest.param(b"/b/c/.", folder(b"b", b"c"), id="one dot at the end is a folder"),
            pytest.param(b"/b/c/./", folder(b"b", b"c"), id="one dot and a slash at the end"),
            pytest.param(b"/b/c/..", folder(b"b"), id="two dots at the end are a folder"),
            pytest.param(b"/b/c/../", folder(b"b"), id="two dots and a slash at the end"),
            pytest.param(b"/b/c/../g", file(b"b", b"g"), id="two dots"),
            pytest.param(b"/b/c/../..", folder(), id="up to the root"),
            pytest.param(b"/b/c/../../../g", file(b"g"), id="never above the root"),
            pytest.param(b"/../../../etc/passwd", file(b"etc", b"passwd"), id="dots before everything"),
            pytest.param(b"/b/c/g.", file(b"b", b"c", b"g."), id="a dot behind a name"),
            pytest.param(b"/b/c/.g", file(b"b", b"c", b".g"), id="a dot before a name"),
            pytest.param(b"/b/c/g..", file(b"b", b"c", b"g.."), id="two dots behind a name"),
            pytest.param(b"/b/c/..g", file(b"b", b"c", b"..g"), id="two dots before a name"),
            pytest.param(b"/...", file(b"..."), id="three dots are a name"),
            pytest.param(b"/b/c/g;x=1/../y", file(b"b", b"c", b"y"), id="a parameter goes with its name"),
            pytest.param(b"/a/%2e%2e/b", file(b"b"), id="encoded dots"),
            pytest.param(b"/a/.%2E/b", file(b"b"), id="half encoded dots"),
            pytest.param(b"/%2e%2e/%2e%2e/a", file(b"a"), id="encoded dots never rise above the root"),
            pytest.param(b"/a/%2e", folder(b"a"), id="an encoded dot at the end is a folder"),
            pytest.param(b"/a/.?b", folder(b"a", query=b"b"), id="a dot before the query is a folder"),
        ],
    )
    def test_dots_are_resolved(self, target: bytes, expected: Target) -> None:
        assert parse_target("GET", target) == expected

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"//", folder(), id="two slashes"),
            pytest.param(b"///a///b//", folder(b"a", b"b"), id="slashes everywhere"),
            pytest.param(b"//host/a", file(b"host", b"a"), id="two slashes begin no authority"),
            pytest.param(b"/a//../b", file(b"b"), id="two dots take back a name, not an empty one"),
        ],
    )
    def test_empty_names_are_passed_over(self, target: bytes, expected: Target) -> None:
        # Deviation: to RFC 3986 "/a//../b" is "/a/b": an empty segment is a level. No disk has empty names.
        assert parse_target("GET", target) == expected


class TestAbsoluteForm:
    """RFC 9112 §3.2.2."""

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            pytest.param(b"http://localhost/a/b?c", file(b"a", b"b", query=b"c"), id="a URI"),
            pytest.param(b"https://localhost/a", file(b"a"), id="https behind a proxy that ends TLS"),
            pytest.param(b"HTTP://LOCALHOST/A", file(b"A"), id="schemes and hosts know no case, paths do"),
            pytest.param(b"http://localhost", folder(), id="no path is the root"),
            pytest.param(b"http://localhost/", folder(), id="the root"),
            pytest.param(b"http://localhost?a", folder(query=b"a"), id="a query without a path"),
            pytest.param(
                b"http://localhost?a/b", folder(query=b"a/b"), id="a slash in a query without a path"
            ),
            pytest.param(b"http://localhost?a@b", folder(query=b"a@b"), id="an at sign in the query"),
            pytest.param(b"http://localhost:8000/a", file(b"a"), id="a port"),
            pytest.param(b"http://localhost:/a", file(b"a"), id="an empty port"),
            pytest.param(b"http://127.0.0.1/a", file(b"a"), id="an IPv4 address"),
            pytest.param(b"http://[::1]:80/a", file(b"a"), id="an IPv6 address and a port"),
            pytest.param(b"http://[::1]?a", folder(query=b"a"), id="an IPv6 address and a query"),
            pytest.param(b"http://localhost//a", file(b"a"), id="two slashes behind the host"),
            pytest.param(b"http://localhost/../a", file(b"a"), id="dots never rise into the host"),
        ],
    )
    def test_a_uri_gives_the_names_of_its_path(self, target: bytes, expected: Target) -> None:
        assert parse_target("GET", target) == expected

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"http://", id="no host"),
            pytest.param(b"http:///a", id="an empty host"),
            pytest.param(b"http://:80/a", id="a port without a host"),
            pytest.param(b"http:/a", id="one slash"),
            pytest.param(b"http:a", id="no slash"),
            pytest.param(b"http//localhost/a", id="no colon"),
            pytest.param(b"://localhost/a", id="no scheme"),
            pytest.param(b"ftp://localhost/a", id="another scheme"),
            pytest.param(b"httpx://localhost/a", id="a scheme that begins like ours"),
            pytest.param(b"file:///etc/passwd", id="a file"),
            pytest.param(b"http://user@localhost/a", id="a user"),
            pytest.param(b"http://user:word@localhost/a", id="a user and a password"),
            pytest.param(b"http://localhost:x/a", id="a port of letters"),
            pytest.param(b"http://localhost:65536/a", id="a port that does not exist"),
            pytest.param(b"http://localhost:80:80/a", id="two ports"),
            pytest.param(b"http://[::1/a", id="an open bracket"),
            pytest.param(b"http://[1:2]/a", id="too few groups in brackets"),
            pytest.param(b"http://local\\host/a", id="a backslash in the host"),
            pytest.param(b"http://%zz/a", id="a malformed encoding in the host"),
        ],
    )
    def test_what_is_no_http_uri_is_refused(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match=r"400.*neither a path nor an http URI"):
            parse_target("GET", target)


class TestAuthorityForm:
    """RFC 9112 §3.2.3."""

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"localhost:80", id="a name"),
            pytest.param(b"127.0.0.1:80", id="an IPv4 address"),
            pytest.param(b"[::1]:80", id="an IPv6 address"),
        ],
    )
    def test_connect_names_a_host_and_a_port(self, target: bytes) -> None:
        assert parse_target("CONNECT", target) == folder()

    @pytest.mark.parametrize(
        "target",
        [
            pytest.param(b"localhost", id="no port"),
            pytest.param(b"8000", id="a name of digits without a port"),
            pytest.param(b"localhost:", id="an empty port"),
            pytest.param(b"[::1]", id="an IPv6 address without a port"),
            pytest.param(b"[::1]:", id="an IPv6 address with an empty port"),
            pytest.param(b":80", id="no host"),
            pytest.param(b"/", id="a path"),
            pytest.param(b"*", id="an asterisk"),
            pytest.param(b"http://localhost:80", id="a URI"),
            pytest.param(b"user@localhost:80", id="a user"),
        ],
    )
    def test_connect_takes_nothing_else(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match=r"400.*CONNECT"):
            parse_target("CONNECT", target)

    def test_only_connect_takes_it(self) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_target("GET", b"localhost:80")


class TestAsteriskForm:
    """RFC 9112 §3.2.4."""

    def test_options_asks_about_the_server(self) -> None:
        assert parse_target("OPTIONS", b"*") == folder()

    def test_options_asks_about_a_path(self) -> None:
        assert parse_target("OPTIONS", b"/a") == file(b"a")

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "TRACE", "options"])
    def test_no_other_method_does(self, method: str) -> None:
        with pytest.raises(BadRequest, match=r"400.*only OPTIONS"):
            parse_target(method, b"*")

    @pytest.mark.parametrize("target", [b"**", b"*/", b"*?a"])
    def test_it_is_the_asterisk_alone(self, target: bytes) -> None:
        with pytest.raises(BadRequest, match="400"):
            parse_target("OPTIONS", target)


AUTHORITIES = [
    pytest.param("localhost", id="a name"),
    pytest.param("LOCALHOST", id="a name in upper case"),
    pytest.param("example.com", id="a name with a dot"),
    pytest.param("example.com.", id="a name with a dot at the end"),
    pytest.param("a_b", id="an underscore, which names of services have"),
    pytest.param("-", id="a hyphen"),
    pytest.param("~!$&'()*+,;=", id="all that a reg-name may hold besides letters and digits"),
    pytest.param("%C3%A4", id="an encoded name"),
    pytest.param("localhost:80", id="a port"),
    pytest.param("localhost:", id="an empty port"),
    pytest.param("localhost:0", id="port 0"),
    pytest.param("localhost:65535", id="the last port"),
    pytest.param("localhost:00080", id="a port with zeros before it"),
    pytest.param("1", id="a digit"),
    pytest.param("127.0.0.1", id="an IPv4 address"),
    pytest.param("127.0.0.1:80", id="an IPv4 address and a port"),
    pytest.param("999.0.0.1", id="no IPv4 address, but a name"),
    pytest.param("[::]", id="the IPv6 address of zeros"),
    pytest.param("[::1]", id="an IPv6 address of one group"),
    pytest.param("[::1]:80", id="an IPv6 address and a port"),
    pytest.param("[::1]:", id="an IPv6 address and an empty port"),
    pytest.param("[1:2:3:4:5:6:7:8]", id="eight groups"),
    pytest.param("[2001:DB8::a]", id="a run of zeros in the middle"),
    pytest.param("[1:2:3:4:5:6:7::]", id="a run of one group at the end"),
    pytest.param("[::2:3:4:5:6:7:8]", id="a run of one group at the beginning"),
    pytest.param("[1:2:3::5:6:7:8]", id="a run of one group in the middle"),
    pytest.param("[fe80::]", id="a run to the end"),
    pytest.param("[0001:ffff::]", id="groups of four digits"),
    pytest.param("[::1.2.3.4]", id="an IPv4 address behind zeros"),
    pytest.param("[::ffff:1.2.3.4]", id="a mapped IPv4 address"),
    pytest.param("[64:ff9b::192.0.2.33]", id="a translated IPv4 address, RFC 6052"),
    pytest.param("[1::1.2.3.4]", id="an IPv4 address right behind a run"),
    pytest.param("[1:2:3:4:5:6:1.2.3.4]", id="an IPv4 address behind six groups"),
    pytest.param("[1:2:3:4:5::1.2.3.4]", id="an IPv4 address behind five groups and a run"),
    pytest.param("[::255.255.255.255]", id="the last IPv4 address"),
    pytest.param("[::0.0.0.0]", id="the first IPv4 address"),
    pytest.param("[v1.a]", id="an address of the future"),
    pytest.param("[VF.a:b]", id="an address of the future in upper case"),
]

NO_AUTHORITIES = [
    pytest.param("", id="empty"),
    pytest.param(":80", id="a port alone"),
    pytest.param(" localhost", id="a blank before"),
    pytest.param("localhost ", id="a blank behind"),
    pytest.param("local host", id="a blank within"),
    pytest.param("localhost\n", id="a line feed behind"),
    pytest.param("localhost:80\n", id="a line feed behind the port"),
    pytest.param("a, b", id="two fields joined"),
    pytest.param("a/b", id="a slash"),
    pytest.param("a\\b", id="a backslash"),
    pytest.param("a?b", id="a question mark"),
    pytest.param("a#b", id="a number sign"),
    pytest.param("a@b", id="a user"),
    pytest.param("a%", id="a percent sign alone"),
    pytest.param("a%4", id="one digit behind a percent sign"),
    pytest.param("a%zz", id="letters behind a percent sign"),
    pytest.param("<a>", id="angle brackets"),
    pytest.param("ä", id="a letter that is not ASCII"),
    pytest.param("http://localhost", id="a URI"),
    pytest.param("localhost:x", id="a port of letters"),
    pytest.param("localhost:-1", id="a negative port"),
    pytest.param("localhost:+1", id="a port with a sign"),
    pytest.param("localhost:80:80", id="two ports"),
    pytest.param("localhost:65536", id="a port above the last"),
    pytest.param("localhost:²", id="a digit that is not ASCII"),
    pytest.param("localhost:000080", id="more digits than a port needs"),
    pytest.param("localhost:" + "9" * 100_000, id="a port of a hundred thousand digits"),
    pytest.param("::1", id="an IPv6 address without brackets"),
    pytest.param("[::1", id="an open bracket"),
    pytest.param("::1]", id="a closed bracket"),
    pytest.param("[]", id="nothing in brackets"),
    pytest.param("[:]", id="a colon in brackets"),
    pytest.param("[:::]", id="three colons"),
    pytest.param("[:::1]", id="three colons and a group"),
    pytest.param("[1::2::3]", id="two runs of zeros"),
    pytest.param("[::1]x", id="something behind the bracket"),
    pytest.param("[::1]80", id="a port without a colon"),
    pytest.param("[::1]:65536", id="a port above the last behind brackets"),
    pytest.param("[1:2:3:4:5:6:7]", id="seven groups"),
    pytest.param("[1:2:3:4:5:6:7:8:9]", id="nine groups"),
    pytest.param("[1:2:3:4:5:6:7::8]", id="eight groups and a run"),
    pytest.param("[:1:2:3:4:5:6:7]", id="a colon at the beginning"),
    pytest.param("[1:2:3:4:5:6:7:]", id="a colon at the end"),
    pytest.param("[1::2:]", id="a colon at the end behind a run"),
    pytest.param("[:1::2]", id="a colon at the beginning before a run"),
    pytest.param("[12345::]", id="five digits"),
    pytest.param("[g::]", id="a letter that is no digit"),
    pytest.param("[1.2.3.4]", id="an IPv4 address in brackets"),
    pytest.param("[localhost]", id="a name in brackets"),
    pytest.param("[dead.beef]", id="a name of hexadecimal digits in brackets"),
    pytest.param("[::1.2.3]", id="three octets"),
    pytest.param("[::1.2.3.4.5]", id="five octets"),
    pytest.param("[::1.2.3.256]", id="an octet above the last"),
    pytest.param("[::1.2.3.]", id="an empty octet"),
    pytest.param("[::1.2.3.a]", id="an octet of letters"),
    pytest.param("[::010.0.0.1]", id="an octet that might be octal"),
    pytest.param("[::1.2.3.00]", id="an octet of two zeros"),
    pytest.param("[1.2.3.4::]", id="an IPv4 address at the beginning"),
    pytest.param("[1:1.2::1.2.3.4]", id="a dot in a group"),
    pytest.param("[:1.2.3.4]", id="one colon before an IPv4 address"),
    pytest.param("[:::1.2.3.4]", id="three colons before an IPv4 address"),
    pytest.param("[1:2:3:4:5:6:7:1.2.3.4]", id="an IPv4 address behind seven groups"),
    pytest.param("[1:2:3:4:5:6::1.2.3.4]", id="an IPv4 address behind six groups and a run"),
    pytest.param("[fe80::1%25eth0]", id="a zone"),
    pytest.param("[v.a]", id="an address of the future without its version"),
    pytest.param("[v1a]", id="an address of the future without its dot"),
    pytest.param("[v1.]", id="an empty address of the future"),
    pytest.param("[vg.a]", id="a version that is no number"),
    pytest.param("[v1.a/b]", id="a slash in an address of the future"),
]


class TestHost:
    """RFC 9110 §7.2 and RFC 3986 §3.2.2."""

    @pytest.mark.parametrize("text", AUTHORITIES)
    def test_a_host_with_or_without_a_port_is_one(self, text: str) -> None:
        assert is_authority(text)

    @pytest.mark.parametrize("text", NO_AUTHORITIES)
    def test_anything_else_is_none(self, text: str) -> None:
        assert not is_authority(text)

    @given(st.ip_addresses(v=6))
    def test_every_ipv6_address_is_one(self, address: ipaddress.IPv6Address) -> None:
        assert is_authority(f"[{address}]")
        assert is_authority(f"[{address.exploded}]:80")

    @settings(max_examples=500)
    @given(st.lists(st.sampled_from(["::", ":", "1", "ffff", "1.2.3.4", "0", "."]), max_size=17).map("".join))
    def test_the_standard_library_takes_the_same_ipv6_addresses(self, text: str) -> None:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            is_address = False
        else:
            is_address = True

        assert is_authority(f"[{text}]") == is_address


class TestFolderLocation:
    """RFC 9110 §10.2.2: a URI reference, relative to the target."""

    @pytest.mark.parametrize(
        ("target", "location"),
        [
            pytest.param(file(b"a"), "./a/", id="a name"),
            pytest.param(file(b"a", b"b"), "./b/", id="only the last name"),
            pytest.param(
                file(b"a", query=b"b=c&d=/%2F"), "./a/?b=c&d=/%2F", id="the query is kept as it was sent"
            ),
            pytest.param(file(b"a", query=b""), "./a/?", id="an empty query is kept"),
            pytest.param(file(b"a b"), "./a%20b/", id="a blank"),
            pytest.param(file("ä".encode()), "./%C3%A4/", id="UTF-8"),
            pytest.param(file(b"\xff"), "./%FF/", id="a byte that is no UTF-8"),
            pytest.param(file(b"a\r\nb"), "./a%0D%0Ab/", id="a line break begins no field"),
            pytest.param(file(b"%2F"), "./%252F/", id="a percent sign"),
            pytest.param(file(b"a?b#c"), "./a%3Fb%23c/", id="a question mark and a number sign"),
            pytest.param(
                file(b"javascript:alert(1)"), "./javascript:alert(1)/", id="a colon makes no scheme"
            ),
            pytest.param(file(b"\\\\host"), "./%5C%5Chost/", id="backslashes make no host"),
            pytest.param(file(b"..."), "./.../", id="three dots"),
            pytest.param(
                file(b"-._~!$&'()*+,;=:@"), "./-._~!$&'()*+,;=:@/", id="all that need not be encoded"
            ),
        ],
    )
    def test_a_location_adds_the_slash(self, target: Target, location: str) -> None:
        assert format_folder_location(target) == location


VISIBLE = st.binary(max_size=40).map(lambda data: bytes(0x21 + byte % 94 for byte in data))
PIECES = st.sampled_from(
    [
        b"/",
        b"//",
        b".",
        b"..",
        b"%2e",
        b"%2E%2e",
        b"%2f",
        b"%00",
        b"%",
        b"%25",
        b"\\",
        b"?",
        b"a",
        b"%C3%A4",
        b":",
        b"@",
    ]
)


class TestAllTargets:
    """What holds for every target that is not refused (RFC 3986)."""

    @settings(max_examples=500)
    @given(VISIBLE | st.lists(PIECES, max_size=12).map(b"".join))
    @example(b"..%2f")
    def test_no_name_is_unsafe(self, path: bytes) -> None:
        try:
            target = parse_target("GET", b"/" + path)
        except BadRequest:
            return
        for name in target.segments:
            assert name not in (b"", b".", b"..")
            assert b"/" not in name
            assert b"\0" not in name

    @given(st.lists(st.binary(min_size=1, max_size=8), max_size=4), st.booleans())
    def test_a_name_of_any_bytes_can_be_asked_for(self, names: list[bytes], is_folder: bool) -> None:
        names = [name for name in names if name not in (b".", b"..") and not set(name) & set(b"\0/")]
        path = "".join("/" + "".join(f"%{byte:02x}" for byte in name) for name in names)

        target = parse_target("GET", (path + "/" * (is_folder or not names)).encode())

        assert target == Target(tuple(names), is_folder or not names, None)

    @settings(max_examples=500)
    @given(st.lists(PIECES, max_size=12).map(b"".join))
    @example(b"/evil.example/a")
    def test_a_location_leads_to_the_folder_of_the_same_name_on_the_same_host(self, path: bytes) -> None:
        try:
            target = parse_target("GET", b"/" + path)
        except BadRequest:
            return
        if target.is_folder:
            return
        url = "http://host.example/" + path.decode()

        split = urlsplit(urljoin(url, format_folder_location(target)))

        assert split.netloc == "host.example"
        reached = parse_target(
            "GET", split.path.encode() + (b"?" + split.query.encode() if split.query else b"")
        )
        assert reached == Target(target.segments, True, target.query or None)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" + ":" * 1_000_000, id="a bracket and a million colons"),
        pytest.param("[" + ":" * 1_000_000 + "]", id="a million colons in brackets"),
        pytest.param("[" + "1:" * 500_000 + "]", id="half a million groups"),
        pytest.param("[" + "." * 1_000_000 + "]", id="a million dots in brackets"),
        pytest.param("[v" + "1" * 1_000_000 + "]", id="a version of a million digits"),
        pytest.param("a" * 1_000_000 + "\\", id="a name of a million letters"),
        pytest.param("%41" * 300_000 + "%", id="a name of encoded letters"),
    ],
)
def test_a_long_authority_is_read_in_one_pass(text: str) -> None:
    # With a step for each pair of characters a row runs into the limit of all tests.
    assert not is_authority(text)
    with pytest.raises(BadRequest):
        parse_target("GET", b"http://" + text.encode() + b"@")


def test_a_long_path_is_read_in_one_pass() -> None:
    assert parse_target("GET", b"/a/.." * 200_000) == folder()
    assert parse_target("GET", b"/" * 1_000_000) == folder()
    assert parse_target("GET", b"/" + b"%41" * 300_000) == file(b"A" * 300_000)
