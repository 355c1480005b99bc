"""Two hosts for every test that asks for them."""

from collections.abc import Iterator

import pytest
from multihost.network import Network, missing


@pytest.fixture(scope="session")
def hosts_can_be_made() -> None:
    """Or the test is skipped, with the reason."""
    if (why := missing()) is not None:
        pytest.skip(why)


@pytest.fixture
def network(hosts_can_be_made: None) -> Iterator[Network]:
    """Two hosts, which are gone after the test."""
    with Network(2) as made:
        yield made
