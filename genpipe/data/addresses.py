"""Which addresses a URL may lead to: public ones only, unless the settings allow others.

A name is looked up once, all its addresses are checked, and the connection is made to a checked address, so that a
second answer of the name service can't lead elsewhere. TLS still proves the name. Where the environment names a proxy,
looking names up is the proxy's work, and so is refusing them; what is checked then is an address in place of a name.
"""

import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from genpipe.errors import DataError

NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """A URL with the address to connect to in place of its name, or with the proxy that is to fetch it."""

    url: httpx.URL
    headers: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    proxy: str | None = None


def checked(url: str, turn: int, *, private: bool) -> Target:
    """Where to ask for `url`; of several addresses each has its `turn`.

    Raises DataError for what is neither http nor https and, unless `private`, for a name that leads to a loopback,
    private, link-local or otherwise not public address; OSError when the name can't be looked up, ValueError for a URL
    that can't be taken apart.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(f"{url} can't be fetched; a URL begins with https:// or http:// and names a host")
    host, port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    addresses = literal(host) if proxy else looked_up(host, port)
    if not private and (inner := [address for address in addresses if not public(address)]):
        raise DataError(
            f"{host} leads to {', '.join(inner)}, which is no public address; if that is meant, set "
            "ingest.source.download.allow_private to true (params.yaml)"
        )
    if proxy:
        return Target(httpx.URL(url), proxy=proxy)
    extensions = {"sni_hostname": host} if parts.scheme == "https" else {}
    address = addresses[turn % len(addresses)]
    return Target(httpx.URL(url).copy_with(host=address), {"Host": httpx.URL(url).netloc.decode()}, extensions)


def looked_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def literal(host: str) -> list[str]:
    """The address that `host` is itself; of a name none."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        return []


def public(address: str) -> bool:
    """Whether an address is of the public internet, as is one of IPv4 that it carries."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        carried = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in NAT64:
            carried = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if carried is not None:
            return public(str(carried))
    return found.is_global and not found.is_multicast
