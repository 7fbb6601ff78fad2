"""Redis is an optimisation: everything works without, gateways find the index workers by their settings."""

from __future__ import annotations

from app.local.broker import EmbeddedBroker
from tests.conftest import MakeStack
from tests.stack import unique


def test_without_redis_everything_is_found_and_nothing_is_lost_by_restarts(
    make_stack: MakeStack, embedded_broker: EmbeddedBroker
) -> None:
    stack = make_stack(embedded_broker.address, None, runtime="hashing", embedded_broker_id="test")
    stack.start()
    kept, edited, deleted = unique("doc"), unique("doc"), unique("doc")
    texts = {kept: "Kept text.", edited: "Old text.", deleted: "Short life."}
    stack.search("text", stack.publish_all(texts))

    positions = [stack.publish(edited, "New text.", version=2), stack.publish(edited, "Late text.", version=1)]
    positions.append(stack.delete(deleted))

    def found() -> dict[str, str]:
        return {id: hit["text"] for id, hit in stack.hits("text", positions, k=1000).items()}

    assert found() == {kept: "Kept text.", edited: "New text."}
    stack.stop("embed", "index", within_s=10)
    stack.start("embed", "index")
    positions.append(stack.publish(kept, "Kept and edited text."))
    assert found() == {kept: "Kept and edited text.", edited: "New text."}
    for role in ("embed", "index", "search"):
        assert stack.readyz(role)[1]["services"]["redis"] == "not configured"
    assert stack.status()["services"] == {"redis": "not configured"}
