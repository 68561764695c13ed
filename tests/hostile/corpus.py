"""Everything hostile that Allegro's answers could hold, by name: orders, what is none, pages, events, whole answers.

An order's id is `hostile`, for tests to put their own in its place.
"""

import gzip
import zlib
from dataclasses import dataclass

MEGABYTE = 1024 * 1024
VENDOR = "application/vnd.allegro.public.v1+json"


def with_id(rest: bytes) -> bytes:
    return b'{"id":"hostile",' + rest + b"}"


ORDERS: dict[str, bytes] = {
    "nul in a value": with_id(b'"a":"x\\u0000y"'),
    "nul in a key": with_id(b'"\\u0000":1'),
    "nul in the status": with_id(b'"status":"x\\u0000y"'),
    "nul in the login": with_id(b'"buyer":{"login":"\\u0000"}'),
    "nul in a line item's id": with_id(b'"lineItems":[{"id":"a\\u0000b"}]'),
    "nul as text": with_id(b'"a":"\\\\u0000"'),
    "a raw nul": with_id(b'"a":"\x00"'),
    "a lone high surrogate": with_id(b'"a":"\\ud800"'),
    "a lone low surrogate": with_id(b'"a":"\\udc00"'),
    "a lone surrogate in a key": with_id(b'"\\ud83d":1'),
    "surrogates the wrong way round": with_id(b'"a":"\\ude00\\ud83d"'),
    "a pair of surrogates": with_id(b'"a":"\\ud83d\\ude00"'),
    "1e400": with_id(b'"a":1e400'),
    "-1e400": with_id(b'"a":-1e400'),
    "1e200000": with_id(b'"a":1e200000'),
    "1e-400": with_id(b'"a":1e-400'),
    "1e-20000": with_id(b'"a":1e-20000'),
    "1e99999999999": with_id(b'"a":1e99999999999'),
    "minus nought": with_id(b'"a":-0.0'),
    "200,000 digits": with_id(b'"a":' + b"7" * 200_000),
    "200,000 decimals": with_id(b'"a":0.' + b"7" * 200_000),
    "5,000 digits": with_id(b'"a":' + b"7" * 5000),
    "299 digits": with_id(b'"a":' + b"7" * 299),
    "2 to the 64": with_id(b'"a":18446744073709551616'),
    "nan": with_id(b'"a":NaN'),
    "infinity": with_id(b'"a":-Infinity'),
    "899 deep": with_id(b'"a":' + b"[" * 899 + b"]" * 899),
    "2,000 deep": with_id(b'"a":' + b"[" * 2000 + b"]" * 2000),
    "6,000 objects deep": with_id(b'"a":' + b'{"a":' * 6000 + b"1" + b"}" * 6000),
    "100,000 deep": with_id(b'"a":' + b"[" * 100_000 + b"]" * 100_000),
    "100,000 wide": with_id(b'"a":[' + b"[]," * 100_000 + b"[]]"),
    "duplicate keys": with_id(b'"a":1,"a":2,"a":{"b":1,"b":2}'),
    "duplicate status": with_id(b'"status":"A","status":"B"'),
    "invalid utf-8 in a value": with_id(b'"a":"\xff\xfe"'),
    "invalid utf-8 in a key": with_id(b'"\xc3":1'),
    "latin-2": with_id('"a":"żółw"'.encode("iso8859-2")),
    "overlong utf-8": with_id(b'"a":"\xc0\x80"'),
    "surrogate in utf-8": with_id(b'"a":"\xed\xa0\x80"'),
    "line items as a number": with_id(b'"lineItems":5'),
    "line items as an object": with_id(b'"lineItems":{"id":"x"}'),
    "line items of nulls": with_id(b'"lineItems":[null,null]'),
    "line items of numbers": with_id(b'"lineItems":[1,"2",[]]'),
    "line items with ids of objects": with_id(b'"lineItems":[{"id":{}},{"id":[]},{"id":7}]'),
    "status as an object": with_id(b'"status":{"a":"b"}'),
    "status as an array": with_id(b'"status":[1]'),
    "status of a megabyte": with_id(b'"status":"' + b"S" * 1_000_000 + b'"'),
    "login of a megabyte": with_id(b'"buyer":{"login":"' + b"l" * 1_000_000 + b'"}'),
    "line item id of 10,000": with_id(b'"lineItems":[{"id":"' + b"i" * 10_000 + b'"}]'),
    "buyer as a text": with_id(b'"buyer":"me"'),
    "summary as null": with_id(b'"summary":null,"fulfillment":null,"marketplace":null'),
    "total as numbers": with_id(b'"summary":{"totalToPay":{"amount":12.30,"currency":985}}'),
    "a moment without a zone": with_id(b'"updatedAt":"2026-01-01T00:00:00"'),
    "a moment before all": with_id(
        b'"updatedAt":"0000-00-00T00:00:00Z","lineItems":[{"boughtAt":"0001-01-01T00:00:00Z"}]'
    ),
    "a moment after all": with_id(b'"updatedAt":"9999-12-31T23:59:59.999999Z"'),
    "a value of a megabyte": with_id(b'"a":"' + b"y" * 1_000_000 + b'"'),
    "a key of a megabyte": with_id(b'"' + b"k" * 1_000_000 + b'":1'),
    "whitespace everywhere": b' {\r\n\t"id" : "hostile" , "a" : [ 1 , 2 ] }\r\n ',
    "no whitespace": b'{"id":"hostile"}',
    "a trailing comma": b'{"id":"hostile",}',
    "backslashes for COPY": with_id(b'"a":"\\\\.","b":"\\\\N","c":"\\t\\n"'),
    "sql": with_id(b'"status":"\'; DROP TABLE orders; --","a":"%s %(x)s {} :x"'),
    "names of python": with_id(b'"__class__":"x","__proto__":{"a":1}'),
    "zero width and right to left": with_id('"status":"\u202e\u200b\ufeff"'.encode()),
    "a byte order mark": b'\xef\xbb\xbf{"id":"hostile"}',
    "id twice": b'{"id":"first","id":"hostile"}',
}
NO_ORDERS: dict[str, bytes] = {
    "nothing": b"",
    "trailing garbage": b'{"id":"hostile"} trailing',
    "two documents": b'{"id":"hostile"}{"id":"hostile"}',
    "cut off": b'{"id":"hostile","a":[1,2',
    "an empty object": b"{}",
    "an empty array": b"[]",
    "an array of orders": b'[{"id":"hostile"}]',
    "null": b"null",
    "a number": b"17",
    "a text": b'"hostile"',
    "no id": b'{"status":"A"}',
    "null as id": b'{"id":null}',
    "an object as id": b'{"id":{"id":"hostile"}}',
    "true as id": b'{"id":true}',
    "an empty id": b'{"id":""}',
    "an id with spaces": b'{"id":"a b"}',
    "an id with nul": b'{"id":"a\\u0000b"}',
    "an id of letters beyond ascii": '{"id":"żółw"}'.encode(),
    "an id of 101": b'{"id":"' + b"x" * 101 + b'"}',
    "an id of 200,000 digits": b'{"id":' + b"7" * 200_000 + b"}",
    "an id of 1e400": b'{"id":1e400}',
    "utf-16": '{"id":"hostile"}'.encode("utf-16"),
    "html": b"<!doctype html><html></html>",
    "binary": bytes(range(256)),
    "only brackets": b"[" * 100_000,
}
ORDERS |= {
    "a huge buyer's text": with_id(b'"messageToSeller":"' + b"m" * (3 * MEGABYTE) + b'"'),
    "ten megabytes": with_id(b'"a":"' + b"y" * (10 * MEGABYTE) + b'"'),
    "64 deep": with_id(b'"a":' + b"[" * 64 + b"]" * 64),
    "100,000 deep before its id": b'{"a":' + b"[" * 100_000 + b"],".rjust(100_001, b"]") + b'"id":"hostile"}',
    "a surrogate before its id": b'{"a":"\\ud800","id":"hostile","status":"A"}',
    "half a surrogate in the login": with_id(b'"buyer":{"login":"\\ud83d"}'),
    "invalid utf-8 in the login": with_id(b'"buyer":{"login":"\xff"}'),
    "a raw control character": with_id(b'"a":"\x01\x1f"'),
    "a raw line end in a text": with_id(b'"a":"x\ny"'),
    "an escape that is none": with_id(b'"a":"\\q"'),
    "a lone quote escaped": with_id(b'"a":"\\""'),
    "single quotes": with_id(b"'a':1"),
    "a comment": with_id(b'/* no */"a":1'),
    "a leading nought": with_id(b'"a":007'),
    "a plus sign": with_id(b'"a":+1'),
    "year nought": with_id(b'"lineItems":[{"boughtAt":"0000-01-01T00:00:00Z"}]'),
    "a leap second": with_id(b'"lineItems":[{"boughtAt":"2016-12-31T23:59:60Z"}]'),
    "no zone": with_id(b'"lineItems":[{"boughtAt":"2026-01-01T00:00:00"}]'),
    "bought as a number": with_id(b'"lineItems":[{"boughtAt":1767225600}]'),
    "line items null": with_id(b'"lineItems":null'),
    "no line items": with_id(b'"lineItems":[]'),
    "20,000 line items": with_id(b'"lineItems":[' + b",".join(b'{"id":"l%d"}' % n for n in range(20_000)) + b"]"),
    "an unknown status": with_id(b'"status":"TELEPORTED","fulfillment":{"status":"BEAMED"}'),
    "a fulfillment of a list": with_id(b'"fulfillment":[{"status":"NEW"}],"status":"BOUGHT"'),
    "a fulfillment of a text": with_id(b'"fulfillment":"NEW","status":"BOUGHT"'),
    "a marketplace of a number": with_id(b'"marketplace":5'),
    "a total of null": with_id(b'"summary":{"totalToPay":null}'),
    "a total of a list": with_id(b'"summary":{"totalToPay":["1","PLN"]}'),
    "an amount of an object": with_id(b'"summary":{"totalToPay":{"amount":{},"currency":[]}}'),
    "updated in words": with_id(b'"updatedAt":"yesterday"'),
    "10,000 unknown fields": with_id(b",".join(b'"f%d":%d' % (n, n) for n in range(10_000))),
    "braces": with_id(b'"lineItems":[{"id":"{a,\\"b\\\\}"},{"id":"NULL"}]'),
}
ODD_IDS: dict[str, tuple[str, bytes]] = {
    "a number as its id": ("17", b'{"id":17}'),
    "an id of path": ("../../me?x=1#y", b'{"id":"../../me?x=1#y"}'),
    "an id of quotes": ("\"\\'", b'{"id":"\\"\\\\\'"}'),
    "an id of 100": ("x" * 100, b'{"id":"' + b"x" * 100 + b'"}'),
    "an id written in escapes": ("abc", b'{"id":"\\u0061bc"}'),
}
BROKEN: dict[str, bytes] = {
    "a bracket that is not closed": b'{"id":"broken","a":[}',
    "a bracket too many": b'{"id":"broken","a":]}',
    "cut off in a text": b'{"id":"broken","a":"cut',
    "cut off in an object": b'{"id":"broken","a":{"b":1',
    "cut off after an escape": b'{"id":"broken","a":"cut\\',
    "closed by another": b'{"id":"broken","a":[1,2}]',
    "a quote that is not closed": b'{"id":"broken","a":"}',
    "more than is taken": b'{"id":"broken","a":"' + b"y" * (17 * MEGABYTE) + b'"}',
}
"""Orders that spoil the list page they stand on, for whoever reads it."""

EVENTS: dict[str, bytes] = {
    "no id": b'{"type":"BOUGHT"}',
    "null as id": b'{"id":null,"type":"BOUGHT"}',
    "an empty id": b'{"id":""}',
    "an object as id": b'{"id":{}}',
    "an id of words": b'{"id":"the first one"}',
    "an id of letters": b'{"id":"abc"}',
    "an id beyond all time": b'{"id":"99999999999999999999999999"}',
    "an id of next year": b'{"id":"1999999999999999"}',
    "an id of 100 digits": b'{"id":"' + b"9" * 100 + b'"}',
    "an id of 200,000 digits": b'{"id":"' + b"9" * 200_000 + b'"}',
    "a number as id": b'{"id":5}',
    "1e400 as id": b'{"id":1e400}',
    "a negative id": b'{"id":"-1"}',
    "an id of path": b'{"id":"../../me"}',
    "nul in its id": b'{"id":"1\\u0000"}',
    "a surrogate": b'{"id":"0","type":"\\ud800"}',
    "nul in its type": b'{"id":"0","type":"\\u0000"}',
    "an unknown type": b'{"id":"0","type":"ORDER_TELEPORTED"}',
    "a type of an object": b'{"id":"0","type":{}}',
    "a type of a megabyte": b'{"id":"0","type":"' + b"T" * MEGABYTE + b'"}',
    "no order": b'{"id":"0","type":"BOUGHT"}',
    "an order of null": b'{"id":"0","type":"BOUGHT","order":null}',
    "an order of a list": b'{"id":"0","type":"BOUGHT","order":[]}',
    "an order of a text": b'{"id":"0","type":"BOUGHT","order":"x"}',
    "a form of null": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":null}}',
    "a form without id": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":{}}}',
    "a form with an empty id": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":{"id":""}}}',
    "a form of path": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":{"id":"../../../me"}}}',
    "a form with nul": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":{"id":"a\\u0000b"}}}',
    "a form beyond ascii": '{"id":"0","type":"BOUGHT","order":{"checkoutForm":{"id":"żółw 🐢"}}}'.encode(),
    "a form of 5,000": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":{"id":"' + b"x" * 5000 + b'"}}}',
    "a form nobody has": b'{"id":"0","type":"BOUGHT","order":{"checkoutForm":'
    b'{"id":"00000000-0000-1000-8000-000000000000"}}}',
    "line items of numbers": b'{"id":"0","type":"BOUGHT","order":{"lineItems":[1,null,[]]}}',
    "year nought": b'{"id":"0","type":"BOUGHT","occurredAt":"0000-00-00T00:00:00Z"}',
    "year one": b'{"id":"0","type":"BOUGHT","occurredAt":"0001-01-01T00:00:00Z"}',
    "year 9999": b'{"id":"0","type":"BOUGHT","occurredAt":"9999-12-31T23:59:59Z"}',
    "a number": b"5",
    "a text": b'"event"',
    "null": b"null",
    "a list": b"[]",
    "6,000 deep": b'{"id":"0","a":' + b"[" * 6000 + b"]" * 6000 + b"}",
    "invalid utf-8": b'{"id":"0","a":"\xff"}',
    "duplicate ids": b'{"id":"0","id":"1"}',
}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole answer with status 200 in place of the right one."""

    body: bytes
    content_type: str = VENDOR
    headers: tuple[tuple[str, str], ...] = ()


_PAGE = b'{"checkoutForms":[{"id":"a"}],"events":[{"id":"1"}],"count":1,"totalCount":1}'
_PACKED = zlib.compressobj(wbits=31)

WHOLE: dict[str, Whole] = {
    "nothing": Whole(b""),
    "html": Whole(b"<!doctype html><h1>Przerwa techniczna</h1>", "text/html"),
    "a captcha": Whole(b"<html><title>Are you human?</title><script>1</script></html>", "text/html; charset=utf-8"),
    "html that says it is json": Whole(b"<!doctype html><h1>Przerwa</h1>"),
    "json that says it is html": Whole(_PAGE, "text/html"),
    "json without a type": Whole(_PAGE, ""),
    "null": Whole(b"null"),
    "a number": Whole(b"7"),
    "a text": Whole(b'"ok"'),
    "a list": Whole(b"[]"),
    "an empty object": Whole(b"{}"),
    "errors with 200": Whole(b'{"errors":[{"code":"X","message":"x"}]}'),
    "lists of null": Whole(b'{"checkoutForms":null,"events":null,"latestEvent":null,"totalCount":0}'),
    "lists of objects": Whole(b'{"checkoutForms":{"a":{"id":"x"}},"events":{"a":{"id":"1"}},"totalCount":1}'),
    "lists of text": Whole(b'{"checkoutForms":"[]","events":"[]","totalCount":0}'),
    "no totalCount": Whole(b'{"checkoutForms":[]}'),
    "totalCount null": Whole(b'{"checkoutForms":[],"totalCount":null}'),
    "totalCount as text": Whole(b'{"checkoutForms":[],"totalCount":"0"}'),
    "a negative totalCount": Whole(b'{"checkoutForms":[],"totalCount":-1}'),
    "a huge totalCount": Whole(b'{"checkoutForms":[],"totalCount":99999999999}'),
    "a totalCount of 200,000 digits": Whole(b'{"checkoutForms":[],"totalCount":' + b"9" * 200_000 + b"}"),
    "a totalCount of 1e400": Whole(b'{"checkoutForms":[],"totalCount":1e400}'),
    "a newest event of a text": Whole(b'{"latestEvent":"x"}'),
    "a newest event beyond all time": Whole(b'{"latestEvent":{"id":"99999999999999999999"}}'),
    "a newest event of letters": Whole(b'{"latestEvent":{"id":"abc"}}'),
    "utf-16": Whole(_PAGE.decode().encode("utf-16")),
    "utf-32": Whole(_PAGE.decode().encode("utf-32")),
    "a byte order mark alone": Whole(b"\xef\xbb\xbf"),
    "invalid utf-8": Whole(b'{"checkoutForms":[],"\xff'),
    "overlong utf-8": Whole(b'{"\xc0\xa2checkoutForms":[]'),
    "nul bytes": Whole(b"\x00" * 1000),
    "binary": Whole(bytes(range(256))),
    "100,000 brackets": Whole(b"[" * 100_000),
    "quotes and backslashes": Whole(b'{"checkoutForms":["' + b'\\"' * 200_000),
    "17 megabytes": Whole(b'{"checkoutForms":["' + b"x" * (17 * MEGABYTE) + b'"],"totalCount":1}'),
    "gzip cut off": Whole(gzip.compress(_PAGE)[:-12], headers=(("content-encoding", "gzip"),)),
    "no gzip at all": Whole(_PAGE, headers=(("content-encoding", "gzip"),)),
    "brotli": Whole(b"\x0b\x02\x80{}\x03", headers=(("content-encoding", "br"),)),
    "zstd": Whole(b"\x28\xb5\x2f\xfd\x00", headers=(("content-encoding", "zstd"),)),
    "gzip in gzip": Whole(gzip.compress(gzip.compress(_PAGE)), headers=(("content-encoding", "gzip, gzip"),)),
    "a bomb of gzip": Whole(
        _PACKED.compress(b" " * (100 * MEGABYTE)) + _PACKED.flush(), headers=(("content-encoding", "gzip"),)
    ),
} | {f"cut off after {length}": Whole(_PAGE[:length]) for length in range(1, len(_PAGE), 8)}


def renamed(body: bytes, order_id: str) -> bytes:
    """The same order under another id."""
    return body.replace(b"hostile", order_id.encode())


def named() -> int:
    """How many items there are."""
    return len([*ORDERS, *ODD_IDS, *NO_ORDERS, *BROKEN, *EVENTS, *WHOLE])
