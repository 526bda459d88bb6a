"""How a server is connected to, by its host and port."""

from __future__ import annotations

from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.interfaces import IStreamClientEndpoint as IEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer


def server_endpoint(reactor: Any, host: str, port: int, timeout_s: float) -> IEndpoint:
    """What connects to a server.

    An address is connected to as it is. To look it up like a name would be a hop to a thread, where
    it waits behind others.

    :param host: a name, or an IPv4 or IPv6 address without brackets.
    """
    if isIPAddress(host):
        return TCP4ClientEndpoint(reactor, host, port, timeout_s)
    if isIPv6Address(host):
        return TCP6ClientEndpoint(reactor, host, port, timeout_s)
    return _Named(HostnameEndpoint(reactor, host, port, timeout=timeout_s), host, port)


@implementer(IEndpoint)
class _Named:
    """Looks up a name and connects; who gives up is not told that there is no such name.

    HostnameEndpoint says so when it is cancelled before it has an answer.
    """

    def __init__(self, endpoint: IEndpoint, host: str, port: int) -> None:
        self._endpoint = endpoint
        self._address = HostnameAddress(host.encode(), port)

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See IStreamClientEndpoint."""
        given_up = False
        connecting: Deferred[IProtocol] = self._endpoint.connect(factory)

        def give_up(_: object) -> None:
            nonlocal given_up
            given_up = True
            connecting.cancel()

        connected: Deferred[IProtocol] = Deferred(give_up)

        def failed(failure: Failure) -> None:
            connected.errback(ConnectingCancelledError(self._address) if given_up else failure)

        _ = connecting.addCallbacks(connected.callback, failed)
        return connected
